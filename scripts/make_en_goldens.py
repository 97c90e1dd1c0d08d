"""Makes tests/golden/en-harness/ and tests/golden/tokenizer/ from samples/.

Independent of the Rust code: prompts are put together by hand from the harness's texts, draws are CPython's, patterns are Python's `re` as the
harness has them, folding is numpy's, ids are those of the tokenizers package and the demo model. The mock responses follow rules written here;
no model is asked. Line references are to lm-eval v0.4.2 as vendored in swallow-llm/swallow-evaluation, tag v202407
(lm-evaluation-harness-en/lm_eval).

    python3 -m venv VENV && VENV/bin/pip install -r scripts/requirements.txt
    VENV/bin/python scripts/make_en_goldens.py

Writes the same bytes every time under the same versions (recorded in each `produced_with`).
"""

import collections
import hashlib
import importlib.metadata
import json
import math
import platform
import random
import re
import shutil
import string
from pathlib import Path

import numpy
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
DEMO = ROOT / "src" / "engine" / "demo"
EOS = "<|eot_id|>"
PRODUCED = {"python": platform.python_version(), "numpy": numpy.__version__, "tokenizers": importlib.metadata.version("tokenizers")}
LETTERS = ["A", "B", "C", "D"]


def samples(name):
    splits = {}
    for line in (ROOT / "samples" / f"{name}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        splits.setdefault(entry["split"], []).append(entry["record"])
    return splits


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".jsonl"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value)
    else:
        text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    (folder / name).write_text(text)


# Filters and metrics.


def regex_filter(pattern, select):  # filters/extraction.py:20-42
    def apply(text):
        found = re.findall(pattern, text)
        if not found:
            return "[invalid]"
        match = found[select]
        if isinstance(match, tuple):
            match = [m for m in match if m][0]
        return match.strip()

    return apply


def remove_whitespace(text):
    return text[1:] if text.startswith(" ") else text


def exact_match(prediction, reference, ignore=(), case=False, punctuation=False):  # evaluate 0.4.2 metrics/exact_match
    for pattern in ignore:
        prediction, reference = re.sub(pattern, "", prediction), re.sub(pattern, "", reference)
    left, right = numpy.asarray([prediction]), numpy.asarray([reference])
    if case:
        left, right = numpy.char.lower(left), numpy.char.lower(right)
    if punctuation:
        table = string.punctuation.maketrans("", "", string.punctuation)
        left, right = numpy.char.translate(left, table=table), numpy.char.translate(right, table=table)
    return float(numpy.mean(left == right))


GSM8K = {"ignore": [",", r"\$", r"(?s).*#### ", r"\.$"], "case": True}


def normalized(text):  # huggingface/datasets 2.20.0 metrics/squad_v2/evaluate.py
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE).split())


def squad_pair(gold, answer):
    words = [normalized(text).split() if text else [] for text in (gold, answer)]
    exact = int(normalized(gold) == normalized(answer))
    same = sum((collections.Counter(words[0]) & collections.Counter(words[1])).values())
    if not words[0] or not words[1]:
        return exact, int(words[0] == words[1])
    if same == 0:
        return exact, 0
    precision, recall = same / len(words[1]), same / len(words[0])
    return exact, 2 * precision * recall / (precision + recall)


def squad_numbers(questions):
    """`questions`: golds, answer, probability of no answer."""
    scored = []
    for golds, answer, no_answer in questions:
        kept = [gold for gold in golds if normalized(gold)] or [""]
        pairs = [squad_pair(gold, answer) for gold in kept]
        scored.append((bool(golds), bool(answer), numpy.float32(no_answer), max(p[0] for p in pairs), max(p[1] for p in pairs)))

    def best(at):
        current = best = sum(not has for has, *_ in scored)
        for row in sorted(scored, key=lambda row: row[2]):
            current += row[at] if row[0] else (-1 if row[1] else 0)
            best = max(best, current)
        return 100.0 * best / len(scored)

    def mean(rows, at):
        return 100.0 * sum(row[at] for row in rows) / len(rows) if rows else 0

    numbers = {}
    for name, rows in [("", scored), ("HasAns_", [r for r in scored if r[0]]), ("NoAns_", [r for r in scored if not r[0]])]:
        numbers |= {f"{name}exact,none": mean(rows, 3), f"{name}f1,none": mean(rows, 4)}
    return numbers | {"best_exact,none": best(3), "best_f1,none": best(4)}


def mean_and_error(values):  # api/metrics.py:24,231
    mean = sum(values) / len(values)
    if len(values) == 1:
        return mean, "N/A"
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) / math.sqrt(len(values))


def pooled(parts):  # api/metrics.py:440-500; `parts`: mean, standard error, size
    total = sum(n for *_, n in parts)
    mean = sum(value * n for value, _, n in parts) / total
    if "N/A" in [error for _, error, _ in parts]:
        return mean, "N/A", total
    variance = sum((n - 1) * error**2 * n for _, error, n in parts) / (total - len(parts))
    return mean, math.sqrt(variance / total), total


# Tasks. A part is what the harness knows as a task: its documents, its pool, how a question and an answer look.


class Task:
    filters, stop, max_tokens, shots, spare, first, extra = {}, None, 256, 4, 0, False, []

    def parts(self):
        splits = samples(self.dataset)
        return [(self.name, splits[self.split], splits[self.pool])]

    def description(self, part):
        return ""

    def same_answer(self, prediction, doc):
        raise NotImplementedError


class Choice(Task):
    """`inputs` and `choices` of a document; one context for all unless there are several inputs."""

    numbers = ["acc,none", "acc_norm,none"]

    def inputs(self, doc):
        return [self.question(doc)]

    def continuations(self, doc):
        return [" " + choice for choice in self.choices(doc)]

    def target(self, doc):
        return self.choices(doc)[self.right(doc)]

    def reference(self, doc):
        return self.right(doc)

    def mock(self, doc, i):
        n = max(len(self.inputs(doc)), len(self.continuations(doc)))
        values = [-6.0 - ((7 * i + 3 * j) % 5) for j in range(n)]
        values[self.right(doc)] = [-5.5, -9.25, -6.0][i % 3]
        return {"logprobs": values, "is_greedy": [False] * n}

    def scores(self, doc, response):
        values, right = response["logprobs"], self.right(doc)
        numbers = {"acc,none": float(numpy.argmax(values) == right)}
        if "acc_norm,none" in self.numbers:
            lengths = [len(choice) for choice in self.choices(doc)]
            numbers["acc_norm,none"] = float(numpy.argmax(numpy.array(values) / numpy.array(lengths)) == right)
        return numbers

    def row(self, doc, i):
        response = self.mock(doc, i)
        return {"response": response, "extracted": None, "reference": self.reference(doc), "scores": self.scores(doc, response)}

    def request(self, contexts, doc):
        continuations = self.continuations(doc)
        if len(contexts) == 1:
            return {"kind": "loglikelihood", "prompt": contexts[0], "continuations": continuations}
        return {"kind": "loglikelihood", "prompt": None, "continuations": continuations, "prompts": contexts}


class OpenBookQa(Choice):
    name = dataset = "openbookqa"
    split, pool = "test", "train"

    def question(self, doc):
        return doc["question"]["stem"]

    def choices(self, doc):
        return [choice["text"] for choice in doc["question"]["choices"]]

    def right(self, doc):
        return [choice["label"] for choice in doc["question"]["choices"]].index(doc["answerKey"].lstrip())


class HellaSwag(Choice):  # tasks/hellaswag/utils.py
    name = dataset = "hellaswag"
    split, pool, spare = "validation", "train", 1

    def clean(self, text):
        text = text.strip().replace(" [title]", ". ")
        return re.sub("\\[.*?\\]", "", text).replace("  ", " ")

    def question(self, doc):
        return self.clean(doc["activity_label"] + ": " + doc["ctx_a"] + " " + doc["ctx_b"].capitalize())

    def choices(self, doc):
        return [self.clean(ending) for ending in doc["endings"]]

    def right(self, doc):
        return int(doc["label"])


class Xwino(Choice):  # tasks/xwinograd/utils.py
    name, dataset = "xwinograd_en", "xwinograd"
    split = pool = "test"
    numbers = ["acc,none"]

    def head(self, doc, option):
        return doc["sentence"][: doc["sentence"].index("_")] + doc[f"option{option}"]

    def question(self, doc):
        return self.head(doc, doc["answer"])

    def inputs(self, doc):
        return [self.head(doc, 1), self.head(doc, 2)]

    def target(self, doc):
        return doc["sentence"][doc["sentence"].index("_") + 1 :].strip()

    def reference(self, doc):
        return self.target(doc)

    def continuations(self, doc):
        return [" " + self.target(doc)] * 2

    def right(self, doc):
        return int(doc["answer"]) - 1


class Mmlu(Choice):
    name = dataset = "mmlu"
    numbers, shots, first = ["acc,none"], 5, True
    groups = {"humanities": ["philosophy"], "social_sciences": ["sociology"], "other": ["management"], "stem": ["anatomy", "abstract_algebra"]}

    def parts(self):
        splits = samples(self.dataset)
        subjects = [subject for group in self.groups.values() for subject in group]
        return [(f"mmlu_{s}", splits[f"{s}/test"], splits[f"{s}/dev"]) for s in subjects]

    def description(self, part):
        return f"The following are multiple choice questions (with answers) about {part.removeprefix('mmlu_').replace('_', ' ')}.\n"

    def question(self, doc):
        choices = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, doc["choices"]))
        return f"{doc['question'].strip()}\n{choices}Answer:"

    def choices(self, doc):
        return LETTERS

    def right(self, doc):
        return LETTERS.index(doc["answer"])


class Generation(Task):
    def inputs(self, doc):
        return [self.question(doc)]

    def request(self, contexts, doc):
        return {
            "kind": "generate", "prompt": contexts[0], "stop": self.stop, "stop_with_eos": [*self.stop, EOS],
            "max_new_tokens": self.max_tokens, "temperature": 0.0, "do_sample": False, "n": 1,
        }

    def row(self, doc, i):
        response = self.mock(doc, i)
        after_stop = response
        for stop in [*self.stop, EOS]:  # models/huggingface.py:1220-1224
            after_stop = after_stop.split(stop)[0]
        extracted = {name: apply(after_stop) for name, apply in self.filters.items()}
        scores = {f"exact_match,{name}": self.same_answer(text, doc) for name, text in extracted.items()}
        return {"response": response, "after_stop": after_stop, "extracted": extracted, "reference": self.reference(doc), "scores": scores}

    @property
    def numbers(self):
        return [f"exact_match,{name}" for name in self.filters]


class TriviaQa(Generation):
    name = dataset = "triviaqa"
    split, pool, spare = "validation", "train", 1
    stop, filters = ["\n", ".", ","], {"remove_whitespace": remove_whitespace}

    def question(self, doc):
        return f"Question: {doc['question']}?\nAnswer:"

    def target(self, doc):
        return doc["answer"]["aliases"][0]

    def reference(self, doc):
        return doc["answer"]["aliases"]

    def same_answer(self, prediction, doc):
        return max(exact_match(prediction, gold, case=True, punctuation=True) for gold in self.reference(doc))

    def mock(self, doc, i):
        gold = doc["answer"]["aliases"][-1]
        return [f" {gold}\n\nQuestion:", f" {gold.upper()}, I think", f"  {gold}", "", f" {gold}{EOS}", " 1000.", f" {gold}!"][i % 7]


class Squad(Generation):
    name, dataset = "squadv2", "squad_v2"
    split, pool, spare = "validation", "train", 1
    stop, extra = ["\n"], [" unanswerable"]

    def question(self, doc):
        return f"Title: {doc['title']}\n\nBackground: {doc['context']}\n\nQuestion: {doc['question']}\n\nAnswer:"

    def golds(self, doc):
        return [answer["text"] for answer in doc["answers"]]

    def target(self, doc):
        return " " + (self.golds(doc) or ["unanswerable"])[0]

    def row(self, doc, i):
        golds = self.golds(doc)
        response = [f"  {(golds or ['the'])[0]}", "  unanswerable\n\nTitle:", f" {(golds or [''])[-1].lower()}!\nx", " on the moon", ""][i % 5]
        na_logprob = -0.25 - 1.375 * ((3 * i) % 4)
        row = {"response": response, "after_stop": response.split("\n")[0].split(EOS)[0], "na_logprob": na_logprob, "na_is_greedy": i % 2 == 0}
        row |= {"extracted": row["after_stop"], "no_answer_probability": math.exp(na_logprob), "reference": golds}
        return row | {"scores": squad_numbers([(golds, row["extracted"], row["no_answer_probability"])])}


class Gsm8k(Generation):
    name = dataset = "gsm8k"
    split, pool = "test", "train"
    stop = ["Question:", "</s>", "<|im_end|>"]
    filters = {"strict-match": regex_filter(r"#### (\-?[0-9\.\,]+)", 0), "flexible-extract": regex_filter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1)}

    def question(self, doc):
        return f"Question: {doc['question']}\nAnswer:"

    def target(self, doc):
        return doc["answer"]

    def reference(self, doc):
        return doc["answer"]

    def same_answer(self, prediction, doc):
        return exact_match(prediction, self.reference(doc), **GSM8K)

    def mock(self, doc, i):
        number = doc["answer"].rsplit(" ", 1)[1]
        return [f" So.\n#### {number}", f" It is ${number}.", f" #### {number}.\n\nQuestion: 1", " #### 18.00", "", f" #### ${number} #### {number},"][i % 6]


class Bbh(Generation):
    name, dataset = "bbh_cot_fewshot", "bbh"
    stop, max_tokens, shots = ["</s>", "Q", "\n\n"], 1024, 3
    filters = {"get-answer": regex_filter(r"(?<=the answer is )(.*)(?=.)", 0)}
    order = ["snarks", "word_sorting", "boolean_expressions"]

    def parts(self):
        splits = samples(self.dataset)
        self.prompts = {f"bbh_cot_fewshot_{t}": splits[f"{t}/prompts"] for t in self.order}
        return [(f"bbh_cot_fewshot_{t}", splits[f"{t}/test"], []) for t in self.order]

    def description(self, part):  # the three examples stand in the template
        return self.prompts[part][0]["description"] + "\n" + "".join(p["exemplar"] + "\n\n" for p in self.prompts[part])

    def question(self, doc):
        return f"Q: {doc['input']}\nA: Let's think step by step."

    def reference(self, doc):
        return doc["target"]

    def same_answer(self, prediction, doc):
        return exact_match(prediction, doc["target"])

    def mock(self, doc, i):
        gold = doc["target"]
        return [f" So the answer is {gold}.", f" So the answer is {gold}", f" Quite. the answer is {gold}.", f"\nthe answer is \nthe answer is  {gold} ."][i % 4]


def make(task):
    folder = GOLDEN / "en-harness" / task.name
    requests, rows, per_doc, sizes, of_part = [], [], {}, {}, {}
    for part, docs, pool in task.parts():
        rnd = random.Random(1234)  # api/task.py:815
        of_part[part] = []
        if pool:
            sizes[part] = len(pool)
        for i, doc in enumerate(docs):
            context = task.description(part)
            if pool:
                count = task.shots + task.spare  # api/samplers.py:22-26
                drawn = list(range(count)) if task.first else rnd.sample(range(len(pool)), count)
                used = [d for d in drawn if pool[d] != doc][: task.shots]
                per_doc[f"{part}:{i}"] = {"drawn": drawn, "used": used}
                context += "".join(f"{task.question(pool[d])} {task.target(pool[d])}\n\n" for d in used)
            contexts = [context + question for question in task.inputs(doc)]
            entry = {"doc_id": f"{part}:{i}", "doc": doc, "request": task.request(contexts, doc)}
            if task.extra:
                entry["extra_requests"] = [{"kind": "loglikelihood", "prompt": contexts[0], "continuations": task.extra}]
            requests.append(entry)
            row = {"doc_id": f"{part}:{i}", **task.row(doc, i)}
            rows.append(row)
            of_part[part].append(row)
    write(folder, "requests.jsonl", requests)
    write(folder, "scoring.jsonl", rows)
    write(folder, "fewshot.json", {"pool_size": sizes, "num_fewshot": task.shots, "per_doc": per_doc})
    metrics, groups = summary(task, of_part)
    settings = {"num_fewshot": task.shots, "seed": 42, "eos": EOS, "documents": "samples/"}
    counts = {part: len(rows) for part, rows in of_part.items()}
    write(folder, "summary.json", {"n": len(rows), "metrics": metrics, "groups": groups, "n_per_task": counts, "settings": settings, "produced_with": PRODUCED})


def summary(task, of_part):
    """Numbers of every part, and of groups where there are several."""
    if isinstance(task, Squad):
        questions = [(row["reference"], row["extracted"], row["no_answer_probability"]) for row in of_part[task.name]]
        numbers = squad_numbers(questions)
        return {task.name: numbers | {key.replace(",", "_stderr,"): "N/A" for key in numbers}}, {}

    def shown(key, value, error):
        return {key: value, key.replace(",", "_stderr,"): error}

    metrics, groups = {}, {}
    for key in task.numbers:
        parts = {}
        for part, rows in of_part.items():
            value, error = mean_and_error([row["scores"][key] for row in rows])
            parts[part] = (value, error, len(rows))
            metrics.setdefault(part, {}).update(shown(key, value, error))
        if len(of_part) == 1:
            continue
        members = list(parts.values())
        if hasattr(task, "groups"):
            above = {f"{task.name}_{group}": pooled([parts[f"{task.name}_{s}"] for s in names]) for group, names in task.groups.items()}
            groups |= {name: shown(key, value, error) for name, (value, error, _) in above.items()}
            members = list(above.values())
        value, error, _ = pooled(members)
        groups[task.name] = shown(key, value, error)
    return metrics | groups, groups


# Units.


def units():
    folder = GOLDEN / "en-harness" / "units"
    texts = ["", " ", "  two", " #### 5", "#### -1,234.5. #### 6", "#### $7", "cost $1,000.50 or 3", "5", "-", "the answer is a.", "the answer is b", "So the answer is \nthe answer is c d.e.\n", "The answer is x.", "the answer is .", "the answer is  (A) .", "\u3000#### 8\u3000", "..", "the answer is 東京。"]
    filters = {"gsm8k strict-match": Gsm8k.filters["strict-match"], "gsm8k flexible-extract": Gsm8k.filters["flexible-extract"], "bbh get-answer": Bbh.filters["get-answer"], "triviaqa remove_whitespace": remove_whitespace}
    write(folder, "filters.jsonl", [{"filter": name, "text": text, "out": apply(text)} for name, apply in filters.items() for text in texts])
    pairs = [("x\n#### 1,234", "1234"), ("#### 5", "5."), ("#### 5.\n", "5.\n"), ("#### 5", "5.0"), ("#### -2", "$-2"), ("a #### b #### 3", "3"), ("#### X", "x"), ("#### 7", "[invalid]")]
    rows = [{"kind": "gsm8k", "reference": gold, "prediction": text, "exact_match": exact_match(text, gold, **GSM8K)} for gold, text in pairs]
    for golds, text in [(["Paris", "City of Paris"], "paris!"), (["St. Oryn"], "st oryn"), (["\u0130x"], "i\u0307x"), (["\u0130x"], "i\u0307"), (["..."], ""), (["a b"], "a  b"), (["Zürich"], "ZÜRICH"), (["x\0"], "X")]:
        rows.append({"kind": "triviaqa", "reference": golds, "prediction": text, "exact_match": max(exact_match(text, gold, case=True, punctuation=True) for gold in golds)})
    rows += [{"kind": "bbh", "reference": gold, "prediction": text, "exact_match": exact_match(text, gold)} for gold, text in [("True", "True"), ("True", "true"), ("(A)", "(A)\0"), ("a", " a")]]
    write(folder, "exact_match.jsonl", rows)
    clean = HellaSwag().clean
    rows = [{"fn": "preprocess", "text": text, "out": clean(text)} for text in [" [header] A [title] B. [step] C  d [x", "a [title] b", "[b] x", "a [b\nc] d", "x   y    z", "\u3000[a]\u3000", "[[a]] ]", ""]]
    rows += [{"fn": "capitalize", "text": text, "out": text.capitalize()} for text in ["", "the MAN", "ßE", "ΟΔΟΣ ΟΔΟΣ", "ǆ", "ŉx", "éA", "1St", " aB", "İX", "ﬁN", "ΐΣ"]]
    write(folder, "hellaswag_text.jsonl", rows)
    rows = []
    for gold, answer in [("The Cat", "a cat."), ("a’s Cat's", "cats"), ("$5", "5 5"), ("", "the"), ("theatre été", "Été theatre an"), ("one two two", "two two three"), ("東京", "東京 です"), ("a-n", "an"), ("x", "")]:
        exact, f1 = squad_pair(gold, answer)
        rows.append({"gold": gold, "pred": answer, "norm_gold": normalized(gold), "norm_pred": normalized(answer), "exact": exact, "f1": f1})
    write(folder, "squad_v2_pairs.jsonl", rows)
    rows = []
    for items in [[1.0], [1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0]]:
        mean, error = mean_and_error(items)
        rows.append({"fn": "mean+mean_stderr", "items": items, "mean": mean, "stderr": error})
    for parts in [[(0.625, 0.125, 8), (0.5, 0.25, 3)], [(0.9, 0.0625, 85), (0.45, 0.046, 184), (1.0, 0.0, 2)]]:
        mean, error, _ = pooled(parts)
        values, errors, sizes = zip(*parts)
        rows.append({"fn": "group", "metrics": values, "stderrs": errors, "sizes": sizes, "metric": mean, "stderr": error})
    write(folder, "aggregation.jsonl", rows)
    write(folder, "rng_sample.json", draws(4321))


def draws(seed):
    rnd = random.Random(seed)
    first = [rnd.getrandbits(32) for _ in range(12)]
    rnd = random.Random(seed)
    mixed = [[bits, rnd.getrandbits(bits)] for bits in [1, 3, 8, 31, 32, 33, 64]]
    cases = []
    for name, n, k, docs in [("list branch", 9, 4, 12), ("21", 21, 5, 12), ("22", 22, 5, 12), ("85", 85, 6, 8), ("86", 86, 6, 8), ("xwinograd_en test", 40, 4, 40)]:
        rnd = random.Random(seed)
        drawn = [rnd.sample(range(n), k) for _ in range(docs)]
        lines = "".join(",".join(map(str, draw)) + "\n" for draw in drawn)
        cases.append({"name": name, "n": n, "k": k, "docs": docs, "first": drawn[:3], "last": drawn[-2:], "sha256_of_lines": hashlib.sha256(lines.encode()).hexdigest()})
    own = [i for i, draw in enumerate(drawn) if i in draw]
    return {"seed": seed, "first_getrandbits32": first, "cases": cases, "mixed_getrandbits": mixed, "xwinograd_en_docs_whose_draw_contains_themselves": own}


# The tokenizer.

CLEANUP = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]


def tokenizer():
    folder = GOLDEN / "tokenizer"
    folder.mkdir(exist_ok=True)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copyfile(DEMO / name, folder / name)
    model = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    eos = model.token_to_id(json.loads((DEMO / "tokenizer_config.json").read_text())["eos_token"])

    def encode(text, special=False):
        return model.encode(text, add_special_tokens=special).ids

    texts = [" the sun ", "東京の天気は晴れ。", " It 's here .", "a\n\n  b", "", "１２３", "x ? y !", "do n't", "🙂"]
    write(folder, "encode_special.jsonl", [{"text": text, "add_special_tokens_false": encode(text), "add_special_tokens_true": encode(text, True), "left_truncate_len_5": encode(text)[-5:]} for text in texts])
    rows = []
    for text in texts:
        plain = cleaned = model.decode(encode(text), skip_special_tokens=True)
        for old, new in CLEANUP:
            cleaned = cleaned.replace(old, new)
        rows.append({"ids": encode(text), "decode_plain": plain, "decode_clean_up_tokenization_spaces": cleaned})
    write(folder, "decode.jsonl", rows)
    rows = []
    pairs = [("質問：東京は", "晴れ"), ("The sky is", " blue"), ("Stems may end in blanks  ", " and so"), ("改行\n\n", " A"), ("全角\u3000", " B"), ("\u200b", " x"), (" ", " A"), ("", " A"), ("", "text"), ("12", "3"), ("東", "京"), ("そ", "うで"), ("a" * 40, " A")]
    for context, continuation in pairs:
        if context == "":
            left, right, whole = [eos], encode(continuation), encode(continuation)
        else:  # api/model.py:294-329
            blanks = len(context) - len(context.rstrip())
            whole = encode(context + continuation)
            left = encode(context[:-blanks] if blanks else context)
            right = whole[len(left) :]
        fed = {f"inp_max_length_{n}": (left + right)[-(n + 1) :][:-1] for n in (8, 32)}
        rows.append({"context": context, "continuation": continuation, "context_enc": left, "continuation_enc": right, "whole_enc_of_concatenation": whole, "accepted_by_original": bool(left and right), **fed})
    write(folder, "encode_pair.jsonl", rows)


for made in [OpenBookQa(), TriviaQa(), HellaSwag(), Squad(), Xwino(), Mmlu(), Gsm8k(), Bbh()]:
    make(made)
units()
tokenizer()
