"""Makes tests/golden/ja-harness/ from samples/.

Independent of the Rust code: prompts are put together by hand from the harness's texts, order and draws are CPython's, scores are those of
sacrebleu 1.5.0, rouge-score 0.1.2 and nagisa 0.2.11 themselves, tokens are the demo model's (a copy stands beside the goldens). The mock
responses follow rules written here; no model is asked. Line references are to swallow-llm/swallow-evaluation, tag v202407 (JP =
lm-evaluation-harness-jp/lm_eval).

    python3 -m venv VENV && VENV/bin/pip install sacrebleu==1.5.0 rouge-score==0.1.2 nagisa==0.2.11 tokenizers==0.22.2 numpy==1.26.4
    VENV/bin/python scripts/make_jp_goldens.py

Writes the same bytes every time under the same versions (recorded in each `produced_with`).
"""

import hashlib
import importlib.metadata
import json
import platform
import random
import re
import shutil
from pathlib import Path

import nagisa
import numpy
import sacrebleu
from rouge_score import rouge_scorer, scoring
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "ja-harness"
DEMO = ROOT / "src" / "engine" / "demo"
MODEL = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
EOS = json.loads((DEMO / "tokenizer_config.json").read_text())["eos_token"]
CLEANUP = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]


def count(text):
    return len(MODEL.encode(text, add_special_tokens=False).ids)


def samples(name):
    splits = {}
    for line in (ROOT / "samples" / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        splits.setdefault(entry["split"], []).append(entry["record"])
    return splits


class Mgsm:
    dataset, folder, task, shots, description = "mgsm", "mgsm", "mgsm", 4, ""

    def question(self, doc):  # JP/tasks/ja/mgsm.py:36-40
        return "問題：" + doc["question"].replace("問題：", "") + "\n" + "ステップごとの答え："

    def target(self, doc):  # mgsm.py:41-44
        return doc["answer"].replace("ステップごとの答え：", "")

    def gold(self, doc):
        return int(doc["answer_number"].replace(",", ""))

    def stop(self):
        return [EOS, "\n"]

    def mock(self, doc, i):
        gold = self.gold(doc)
        return [f"答えは{gold}です。", f"{gold}.0", f"よって{gold + 1}。\n\n問題：次は{gold}", f"答えは{gold}...", " 6 . 合計 ,", ""][i % 6]

    def row(self, completion, gold):  # mgsm.py:76-106
        found = re.findall(r"(\-?[0-9\.\,]+)", completion)
        answer = "[invalid]"
        if found:
            try:
                value = float(found[-1].strip(".").replace(",", ""))
                answer = int(value) if value == int(value) else answer
            except (ValueError, OverflowError):
                pass
        return {"answer": answer}, {"acc": float(answer == gold)}

    def summary(self, rows):
        return {"acc": sum(row["scores"]["acc"] for row in rows) / len(rows)}


class Wmt:
    shots, description = 4, ""

    def __init__(self, pair, source, target):
        self.dataset = self.task = f"wmt20-{pair}"
        self.folder = self.task.replace("-", "_")
        self.languages, self.japanese = (source, target), target == "Japanese"

    def question(self, doc):  # JP/tasks/translation.py:160-167
        return f"{self.languages[0]} phrase: {doc['src']}\n{self.languages[1]} phrase:"

    def target(self, doc):
        return " " + doc["ref"]

    def gold(self, doc):
        return doc["ref"]

    def stop(self):
        return ["\n", EOS]

    def mock(self, doc, i):
        ref = doc["ref"]
        return [f" {ref}", f" {ref[: len(ref) // 2]}", f" {ref}\n\n{self.languages[0]} phrase:", "", f" {ref[2:]} ですね ." if self.japanese else f" It 's {ref} ."][i % 5]

    def prepare(self, text):  # translation.py:189-203
        return " ".join(nagisa.tagging(text.strip()).words) if self.japanese else text

    def row(self, completion, gold):
        hypothesis, reference = self.prepare(completion), self.prepare(gold)
        bleu = sacrebleu.corpus_bleu([hypothesis], [[reference]])
        thirteen = sacrebleu.tokenizers.tokenizer_13a.Tokenizer13a()
        extracted = {"segmented": hypothesis, "segmented_reference": reference} if self.japanese else {}
        extracted |= {"tokenized_13a": thirteen(hypothesis.rstrip()), "tokenized_13a_reference": thirteen(reference.rstrip())}
        return extracted, {"bleu_one_document_corpus": bleu.score, **self.counts(bleu)}

    def counts(self, bleu):
        return {"counts": bleu.counts, "totals": bleu.totals, "sys_len": bleu.sys_len, "ref_len": bleu.ref_len}

    def summary(self, rows):
        hypotheses = [self.prepare(row["extracted"]["completion"]) for row in rows]
        bleu = sacrebleu.corpus_bleu(hypotheses, [[self.prepare(row["reference"]) for row in rows]])
        return {"bleu": bleu.score, **self.counts(bleu), "precisions": bleu.precisions, "bp": bleu.bp}


class XlSum:
    dataset, folder, task, shots = "xlsum_ja", "xlsum_ja", "xlsum_ja", 1
    description = "与えられたニュース記事を要約してください。\n\n"  # JP/tasks/ja/xlsum_ja.py:54

    class Tokens:
        def tokenize(self, text):
            return MODEL.encode(text, add_special_tokens=False).tokens

    def question(self, doc):  # xlsum_ja.py:82-84
        return f"ニュース記事:{doc['text']}\n要約:"

    def target(self, doc):
        return doc["summary"]

    def gold(self, doc):
        return doc["summary"]

    def stop(self):
        return ["\n", EOS]

    def mock(self, doc, i):
        return [doc["summary"], f" {doc['summary'][:12]}。", f"{doc['title']}。\n続き", ""][i % 4]

    def row(self, completion, gold):  # xlsum_ja.py:170-173
        score = rouge_scorer.RougeScorer(["rouge2"], tokenizer=self.Tokens()).score(gold, completion)["rouge2"]
        extracted = {"tokens": self.Tokens().tokenize(completion), "reference_tokens": self.Tokens().tokenize(gold)}
        return extracted, {"rouge2_f": score.fmeasure, "rouge2_p": score.precision, "rouge2_r": score.recall}

    def summary(self, rows):  # xlsum_ja.py:175-190; evaluator.py:60
        numpy.random.seed(1234)
        aggregator = scoring.BootstrapAggregator()
        for row in rows:
            s = row["scores"]
            aggregator.add_scores({"rouge2": scoring.Score(s["rouge2_p"], s["rouge2_r"], s["rouge2_f"])})
        mean = sum(row["scores"]["rouge2_f"] for row in rows) / len(rows)
        return {"rouge2": aggregator.aggregate()["rouge2"].mid.fmeasure * 100, "rouge2_plain_mean_of_f_times_100": mean * 100}


def cleaned_and_cut(text, stops):
    """tokenizer.decode's clean-up, then models/huggingface.py:458-460."""
    for old, new in CLEANUP:
        text = text.replace(old, new)
    for stop in stops:
        text = text.split(stop)[0]
    return text


def write(folder, name, rows):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / name).write_text("".join(lines))


def make(task):
    splits = samples(task.dataset)
    docs, pool = list(splits["test"]), splits.get("train") or list(splits["test"])
    own_pool = "train" not in splits
    rnd = random.Random(42)  # evaluator.py:211-214
    rnd.shuffle(docs)
    requests, rows, draws, prompts = [], [], [], []
    for i, doc in enumerate(docs):
        drawn = rnd.sample(range(len(pool)), task.shots + own_pool)  # base.py:708-728
        shots = [pool[d] for d in drawn if not own_pool or pool[d] != doc][: task.shots]
        parts = [task.question(shot) + task.target(shot) for shot in shots] + [task.question(doc)]
        prompts.append(task.description + "\n\n".join(parts))
        assert count(prompts[-1]) <= 4096 - 256, "the samples are meant to fit"
        draws.append({"doc_id": str(i), "rnd_sample_indices": [drawn]})
        request = {"kind": "generate", "prompt": prompts[-1], "stop": task.stop(), "max_new_tokens": 256, "temperature": 0.0}
        requests.append({"doc_id": str(i), "doc": doc, "request": request})
        response, gold = task.mock(doc, i), task.gold(doc)
        completion = cleaned_and_cut(response, task.stop())
        extracted, scores = task.row(completion, gold)
        rows.append({"doc_id": str(i), "response": response, "extracted": {"completion": completion, **extracted}, "reference": gold, "scores": scores})
    folder = GOLDEN / task.folder
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, "requests.jsonl", requests)
    write(folder, "scoring.jsonl", rows)
    fewshot = {"selection": "Random(42): shuffle(documents), then one sample(pool) a document", "pool_size": len(pool), "documents": len(docs), "draws": draws, "pool": None if own_pool else pool}
    packages = ["sacrebleu", "rouge-score", "nagisa", "numpy", "tokenizers"]
    summary = {
        "n": len(rows),
        "metrics": task.summary(rows),
        "settings": {
            "data": "samples/",
            "task": task.task,
            "num_fewshot": task.shots,
            "max_length": 4096,
            "max_gen_toks": 256,
            "batch_size": 2,
            "documents_in_full_run": len(docs),
            "sha256_of_all_prompts_in_evaluation_order": hashlib.sha256("\0".join(prompts).encode()).hexdigest(),
        },
        "produced_with": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
    }
    for name, value in [("fewshot.json", fewshot), ("summary.json", summary)]:
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


for made in [Mgsm(), Wmt("en-ja", "English", "Japanese"), Wmt("ja-en", "Japanese", "English"), XlSum()]:
    make(made)
(GOLDEN / "tokenizer").mkdir(exist_ok=True)
for name in ["tokenizer.json", "tokenizer_config.json"]:
    shutil.copyfile(DEMO / name, GOLDEN / "tokenizer" / name)
