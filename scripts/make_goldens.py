"""Makes tests/golden/ja-llmjp/ and tests/golden/pyrandom/ from samples/.

Independent of the Rust code: prompts are put together by hand from llm-jp-eval's texts, shuffles and seeds are CPython's, char_f1 is the
original fuzzywuzzy on python-Levenshtein, means are `statistics.mean`. The mock responses follow rules written here; no model is asked.
Line references are to swallow-llm/swallow-evaluation, tag v202407 (LJ = llm-jp-eval/src/llm_jp_eval).

    python3 -m venv VENV && VENV/bin/pip install -r scripts/requirements.txt
    VENV/bin/python scripts/make_goldens.py

Writes the same bytes every time under the same versions (recorded in each `produced_with`).
"""

import hashlib
import importlib.metadata
import json
import platform
import random
import statistics
import sys
import unicodedata
from fractions import Fraction
from pathlib import Path

from fuzzywuzzy import fuzz

import golden_vectors

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
SEED = 42

FRAME = "以下は、タスクを説明する指示と、文脈のある入力の組み合わせです。要求を適切に満たす応答を書きなさい。\n\n### 指示:\n{}"  # LJ/utils.py:115-120
SHOT = "\n\n### 入力:\n{}\n\n### 応答:\n{}"  # LJ/utils.py:45-55

# LJ/datasets/{jcommonsenseqa:15, jemhopqa:15, niilc:15, jsquad:14, jmmlu:72}.py; token limits: `output_length` of the same files.
TASKS = {
    "jcommonsenseqa": {
        "instruction": "質問と回答の選択肢を入力として受け取り、選択肢から回答を選択してください。なお、回答は選択肢の番号（例：0）でするものとします。 回答となる数値をint型で返し、他には何も含めないことを厳守してください。",
        "splits": ("train", "valid"),
        "shots": 4,
        "max_new_tokens": 1,
        "metric": "exact_match",
    },
    "jemhopqa": {
        "instruction": "質問を入力とし、回答を出力してください。回答の他には何も含めないことを厳守してください。回答が'はい'と'いいえ'で答えることができる場合、'YES'と'NO'で答えてください。",
        "splits": ("train", "dev"),
        "shots": 4,
        "max_new_tokens": 15,
        "metric": "char_f1",
    },
    "niilc": {
        "instruction": "質問に対する答えを出力してください。回答の他には何も含めないことを厳守してください。答えが複数の場合、コンマ（,）で繋げてください。",
        "splits": ("dev", "test"),
        "shots": 4,
        "max_new_tokens": 180,
        "metric": "char_f1",
    },
    "jsquad": {
        "instruction": "質問に対する回答を文章から一言で抽出してください。回答は名詞で答えてください。 それ以外には何も含めないことを厳守してください。",
        "splits": ("train", "valid"),
        "shots": 4,
        "max_new_tokens": 25,
        "metric": "char_f1",
    },
    "jmmlu": {
        "instruction": "与えられた質問と選択肢から、最も適切な回答を選択してください。なお、回答には選択肢のアルファベット（例：A）のみを含め、他には何も含めないことを厳守してください。",
        "splits": None,
        "shots": 5,
        "max_new_tokens": 1,
        "metric": "exact_match",
    },
}

# The subjects that have samples, in the order of LJ/datasets/jmmlu.py:14-68, with the category of scripts/jmmlu_statistics.py:6-64.
SUBJECTS = {
    "nutrition": "other",
    "japanese_history": "humanities",
    "high_school_geography": "social_sciences",
    "high_school_biology": "stem",
    "miscellaneous": "other",
    "elementary_mathematics": "stem",
    "astronomy": "stem",
    "sociology": "social_sciences",
}


def versions():
    names = ["fuzzywuzzy", "python-levenshtein", "Levenshtein", "rapidfuzz"]
    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "unicodedata": unicodedata.unidata_version}


def read_samples(task):
    """Records by split, each with its position in the split; splits in file order."""
    splits = {}
    with open(ROOT / "samples" / f"{task}.jsonl", encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            splits.setdefault(entry["split"], []).append(entry["record"])
    return splits


def universal_newlines(cell):
    return cell.replace("\r\n", "\n").replace("\r", "\n")


def join_answers(answers):
    """LJ/datasets/niilc.py:38-44 on stripped texts, in which an empty element is None."""
    kept = [answer.strip() for answer in answers if answer and answer.strip()]
    return ",".join(kept)


def to_sample(task, record):
    """(input, output) of one record: LJ/datasets/*.py."""
    if task == "jcommonsenseqa":
        choices = ",".join(f"{i}.{record[f'choice{i}']}" for i in range(5))
        return f"質問：{record['question']}\n選択肢：{choices}", str(record["label"])
    if task == "jemhopqa":
        return f"質問：{record['question']}", record["answer"]
    if task == "niilc":
        return f"質問：{record['text'].strip()}", join_answers(record["answers"])
    if task == "jsquad":
        return f"文章：{record['context']}\n質問：{record['question']}", record["answers"][0]["text"]
    question, *choices, answer = (universal_newlines(record[key]) for key in ["question", "A", "B", "C", "D", "answer"])
    choices = ",".join(f"{letter}.{choice}" for letter, choice in zip("ABCD", choices))
    return f"質問：{question}\n選択肢：{choices}", answer


def arrange(task):
    """(evaluated, shot pool, unused), each a list of {doc, input, output, source}. `source` is the position in the filtered pool file."""
    splits = read_samples(task)
    if task == "jmmlu":
        return arrange_jmmlu(splits)
    sets = []
    for split in TASKS[task]["splits"]:
        made = []
        for record in splits[split]:
            text, output = to_sample(task, record)
            if task == "niilc" and output == "-":
                continue
            made.append({"doc": record, "input": text, "output": output, "source": len(made)})
        sets.append(made)
    pool, evaluated = sets
    random.seed(SEED)
    random.shuffle(pool)
    cut = int(len(pool) * 0.9)
    return evaluated, pool[:cut], pool[cut:]


def arrange_jmmlu(splits):
    """LJ/datasets/jmmlu.py:86-119."""
    unknown = set(splits) - set(SUBJECTS)
    if unknown:
        sys.exit(f"samples/jmmlu.jsonl has subjects that SUBJECTS lacks: {sorted(unknown)}")
    random.seed(SEED)
    dev, test = [], []
    for subject in SUBJECTS:
        rows = []
        for row, record in enumerate(splits[subject]):
            keys = ["question", "A", "B", "C", "D", "answer"]
            doc = {"subject": subject, "row": row, **{key: record[key] for key in keys}}
            text, output = to_sample("jmmlu", record)
            rows.append({"doc": doc, "input": text, "output": output, "source": None})
        random.shuffle(rows)
        dev += rows[: len(rows) // 2]
        test += rows[len(rows) // 2 :]
    random.shuffle(dev)
    random.shuffle(test)
    return test[16:], dev[:16] + test[:16], dev[16:]


def make_prompt(task, shots, text):
    prompt = FRAME.format(TASKS[task]["instruction"])
    for shot in shots:
        prompt += SHOT.format(shot["input"], shot["output"])
    return prompt + SHOT.format(text, "")


def extract(response):
    """LJ/utils.py:146-149."""
    return unicodedata.normalize("NFKC", response.split("\n\n")[0])


def score(extracted, reference):
    """LJ/utils.py:175-176 and :187-191."""
    return {
        "exact_match": int(extracted == reference),
        "char_f1": fuzz.token_sort_ratio(extracted, reference) / 100.0,
    }


def full_width(text):
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


# What a model might send: the gold and another document's gold in the forms that decide between right and wrong.
MOCK_RULES = [
    lambda gold, other: gold,
    lambda gold, other: gold + "\n\n### 入力:\n質問：次の質問\n\n### 応答:\n" + other,
    lambda gold, other: other,
    lambda gold, other: gold + "\n",
    lambda gold, other: full_width(gold),
    lambda gold, other: " " + gold,
    lambda gold, other: gold + "\r\n\r\n" + other,
    lambda gold, other: "\n\n" + gold,
    lambda gold, other: "答え：" + gold,
    lambda gold, other: gold + "。",
    lambda gold, other: gold + "\n" + other,
    lambda gold, other: gold + "\u3000",
    lambda gold, other: "",
    lambda gold, other: gold + "\n \n" + other,
    lambda gold, other: ",".join(reversed(gold.split(","))),
    lambda gold, other: gold[: max(1, len(gold) // 2)],
    lambda gold, other: gold + "</s>",
    lambda gold, other: "\ufeff" + gold,
    lambda gold, other: gold.lower() + "\n\n\n\n",
]


def mock_responses(task, documents):
    """Every second answer is the bare gold, so that scores are neither zero nor one; the other half walks through MOCK_RULES."""
    rng = random.Random(f"mock {task}")
    rules = list(range(1, len(MOCK_RULES)))
    rng.shuffle(rules)
    responses = []
    for index, document in enumerate(documents):
        other = rng.choice(documents)["output"]
        rule = 0 if index % 2 == 0 else rules[(index // 2) % len(rules)]
        responses.append(MOCK_RULES[rule](document["output"], other))
    return responses


def digest(texts):
    hasher = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8")
        hasher.update(len(encoded).to_bytes(8, "little") + encoded)
    return hasher.hexdigest()


def aggregate(metric, scores):
    values = [score[metric] for score in scores]
    return sum(values) / len(values) if metric == "exact_match" else statistics.mean(values)


def write_json(path, value, indent=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8", newline="\n")


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", newline="\n")


def make_task(task):
    settings = TASKS[task]
    evaluated, pool, unused = arrange(task)
    shots = pool[: settings["shots"]]
    prompts = [make_prompt(task, shots, document["input"]) for document in evaluated]
    golds = [unicodedata.normalize("NFKC", document["output"]) for document in evaluated]
    ids = [f"{task}/test/{index:05d}" for index in range(len(evaluated))]
    responses = mock_responses(task, evaluated)
    folder = GOLDEN / "ja-llmjp" / task
    request = {"stop": [], "max_new_tokens": settings["max_new_tokens"], "temperature": 0.0}
    write_jsonl(
        folder / "requests.jsonl",
        (
            {"doc_id": i, "doc": document["doc"], "request": {"kind": "generate", "prompt": prompt, **request}}
            for i, document, prompt in zip(ids, evaluated, prompts)
        ),
    )
    rows = []
    for i, response, gold in zip(ids, responses, golds):
        extracted = extract(response)
        rows.append({"doc_id": i, "response": response, "extracted": extracted, "reference": gold, "scores": score(extracted, gold)})
    write_jsonl(folder / "scoring.jsonl", rows)
    write_json(folder / "fewshot.json", fewshot_file(task, shots))
    write_json(folder / "summary.json", summary_file(task, rows, prompts, golds, len(pool), len(unused)))
    if task == "jmmlu":
        write_json(folder / "category_full.json", category_file(evaluated, responses, rows))


def fewshot_file(task, shots):
    return {
        "num_fewshot": len(shots),
        "selection": f"first num_fewshot samples of the shuffled shot pool of samples/{task}.jsonl, same for every document",
        "documents": [
            {"doc": s["doc"], "index_in_filtered_train_source": s["source"], "input": s["input"], "output": s["output"]} for s in shots
        ],
    }


def summary_file(task, rows, prompts, golds, n_pool, n_unused):
    settings = TASKS[task]
    key = f"{task}_{settings['metric']}"
    value = aggregate(settings["metric"], [row["scores"] for row in rows])
    return {
        "n": len(rows),
        "metrics": {key: value},
        "metrics_formatted_by_upstream": {key: f"{value:.4f}"},
        "primary_metric": key,
        "settings": {
            "num_fewshot": settings["shots"],
            "pipeline_kwargs": {
                "max_new_tokens": settings["max_new_tokens"],
                "do_sample": False,
                "repetition_penalty": 1.0,
                "eos_token_id": "tokenizer.eos_token_id",
                "pad_token_id": "tokenizer.pad_token_id",
            },
            "split": "test",
            "sample": f"all {len(rows)} evaluated documents of samples/{task}.jsonl",
            "doc_id": "TASK/test/INDEX, INDEX = 0-based position in evaluation order",
        },
        "full_test_set": {
            "n": len(rows),
            "n_train": n_pool,
            "n_dev": n_unused,
            "sha256_prompts": digest(prompts),
            "sha256_golds": digest(golds),
            "digest_rule": "sha256 over all documents in test order of (8-byte little-endian UTF-8 length, UTF-8 bytes)",
            "mock_run": {key: value},
            "mock_run_formatted": {key: f"{value:.4f}"},
        },
        "produced_with": versions(),
    }


def category_file(evaluated, responses, rows):
    """Accuracy by subject and category: by true subject, and as scripts/jmmlu_statistics.py finds subjects (by question text)."""
    hits = [row["scores"]["exact_match"] for row in rows]
    true = [document["doc"]["subject"] for document in evaluated]
    by_question = {}
    splits = read_samples("jmmlu")
    for subject in sorted(splits):
        for record in splits[subject]:
            by_question[universal_newlines(record["question"])] = subject
    looked_up = [by_question[universal_newlines(document["doc"]["question"])] for document in evaluated]
    moved = [
        {"test_index": index, "true_subject": t, "upstream_subject": u} for index, (t, u) in enumerate(zip(true, looked_up)) if t != u
    ]
    counts = tally(looked_up, hits)
    accuracy = {name: c["correct"] / c["n"] for name, c in counts.items()}
    categories = sorted(set(SUBJECTS[subject] for subject in looked_up))
    return {
        "responses_in_test_order": responses,
        "upstream_per_task_json": {
            "results": {key_of(name): value for name, value in accuracy.items()},
            "groups": {key_of(name): accuracy[name] for name in ["__all__", *categories]},
            "group_subtasks": {
                key_of(c): [key_of(s) for s in sorted(set(looked_up)) if SUBJECTS[s] == c] for c in categories
            },
        },
        "listdir_order": "sorted by file name (upstream: os.listdir order; with duplicate questions the last file listed wins)",
        "documents_upstream_files_under_another_subject": moved,
        "with_true_subjects": tally(true, hits),
    }


def key_of(name):
    return "jmmlu" if name == "__all__" else f"jmmlu_{name}"


def tally(subjects, hits):
    counts = {}
    for subject, hit in zip(subjects, hits):
        for name in ["__all__", subject, SUBJECTS[subject]]:
            entry = counts.setdefault(name, {"correct": 0, "n": 0})
            entry["correct"] += hit
            entry["n"] += 1
    return dict(sorted(counts.items()))


def make_metrics():
    """_metrics/: pairs that try the scorer, and exact means."""
    pairs = []
    for number, (response, gold) in enumerate(golden_vectors.torture_pairs()):
        extracted, reference = extract(response), unicodedata.normalize("NFKC", gold)
        texts = {"response": response, "gold": gold, "extracted": extracted, "reference": reference}
        pairs.append({"id": number, **texts, "scores": score(extracted, reference)})
    folder = GOLDEN / "ja-llmjp" / "_metrics"
    write_jsonl(folder / "pairs.jsonl", pairs)
    scores = [pair["scores"] for pair in pairs]
    what = "(response, gold) torture pairs through llm-jp-eval's post-processing and metrics; characters assigned in Unicode 13.0"
    summary = {
        "n": len(pairs),
        "metrics": {metric: aggregate(metric, scores) for metric in ["char_f1", "exact_match"]},
        "settings": {"what": what},
        "produced_with": versions(),
    }
    write_json(folder / "summary.json", summary)
    vectors = []
    for scores_x100 in golden_vectors.score_lists():
        mean = statistics.mean(s / 100.0 for s in scores_x100)
        tie = Fraction(sum(scores_x100) * 100, len(scores_x100)) % 1 == Fraction(1, 2)
        vectors.append({"scores_x100": scores_x100, "mean": mean, "formatted": f"{mean:.4f}", "tie_at_4_decimals": tie})
    rule = "mean = correctly rounded (exact sum of the doubles s/100.0) / n; formatted = 4 decimals of that double"
    write_json(folder / "mean_vectors.json", {"rule": rule, "vectors": vectors}, indent=None)


def main():
    for task in TASKS:
        make_task(task)
    make_metrics()
    for seed in golden_vectors.SEEDS:
        vectors = golden_vectors.python_random(seed)
        write_json(GOLDEN / "pyrandom" / f"python_seed_{seed}.json", vectors, indent=None)


if __name__ == "__main__":
    main()
