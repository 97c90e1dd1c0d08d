"""Makes tests/golden/metrics/ and, in tests/golden/pyrandom/, numpy_legacy_seed_*.json and protocol_jp_harness.json.

Independent of the Rust code: scores are those of sacrebleu 1.5.0 and rouge-score 0.1.2 themselves, generators are numpy's and CPython's,
clean-up is transformers'. The texts are written here or put together from pieces written here. MGSM's extraction follows
swallow-llm/swallow-evaluation, tag v202407, lm-evaluation-harness-jp/lm_eval/tasks/ja/mgsm.py:24,76-106, on Python's `re` and `float`.

    python3 -m venv VENV
    VENV/bin/pip install sacrebleu==1.5.0 rouge-score==0.1.2 numpy==1.26.4 tokenizers==0.22.2 transformers==4.57.6
    VENV/bin/python scripts/make_metric_goldens.py

Run scripts/make_jp_goldens.py first: ROUGE is on the tokens of its tokenizer. Writes the same bytes every time under the same versions.
"""

import importlib.metadata
import json
import platform
import random
import re
from pathlib import Path

import numpy
import sacrebleu
from rouge_score import rouge_scorer, scoring
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
MODEL = Tokenizer.from_file(str(GOLDEN / "ja-harness" / "tokenizer" / "tokenizer.json"))
PACKAGES = ["sacrebleu", "rouge-score", "numpy", "tokenizers", "transformers"]
VERSIONS = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
PIECES = ["The heron", "waded,", "slowly", "through 3.5 m", "of mud.", "It's 7-8", "o'clock", "&quot;now&quot;", "湖の", "鷺は、", "歩いた。", "\u3000", "-\n", "(2024)", "\x1c", "\u00a0", "don 't", " .", " ,", "½"]
ODD = ["", " ", "\t", "\u3000", ".", "...", ",", "--", "4-5", "4 - 5", "9,876.5", "7.", ".7", "x.y", "x,y", "Ph.D.", "can't", "'so'", "\"so\"", "&quot;so&quot;", "&amp;lt;so&amp;gt;", "&lt;i&gt;", "<skipped>rest", "well-\nknown", "one\ntwo", "\x1cedge\x1f", "a\x1db", "a\u0085b", "a\u2028b", "a\u200bb", "９，８", "湖。", "湖、山", "{x}~[y]`z_^", "$5 + 5% = @#", "a\\b/c:d;e", "7-x", "x-7", "7–8", "1.,2", ",.,", "7 .5"]
NUMBERS = ["", "なし", "答えは31です。", "31.", "31.です", "-31", "−31", "３１", "3,100", "3,1,0,0", "31.0", "31.5", "-0", "-0.0", "-", "-.", "-,", ".5", "5.", "5.,", ",5", "1.2.3", "1e4", "1_000", "0x1F", "007", "8と9", "8...", "8,", "8。", "8, 9,", "--8", "8-9", "12345678901234567890", "9007199254740993", "9" * 309, "1" + "0" * 400, "31円\n次は5", "½", "31\u00a0", "(31)", "inf", "nan7"]
CLEAN = ["", "so .", "so ?", "so !", "so ,", "so ' so", "do n't", "I 'm", "it 's", "we 've", "they 're", "so  .", " . . .", "' ' '", "湖 。", "so .so", "it ' s", "x ' ' y", " n't 'm"]


def texts(seed, count):
    rng = random.Random(seed)
    return [rng.choice(["", " "]).join(rng.choices(PIECES, k=rng.randrange(12))) for _ in range(count)]


def write_rows(name, rows):
    (GOLDEN / "metrics" / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_object(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n")


def extract(completion):
    found = re.findall(r"(\-?[0-9\.\,]+)", completion)
    try:
        value = float(found[-1].strip(".").replace(",", "")) if found else None
    except ValueError:
        value = None
    return str(int(value)) if value is not None and value.is_integer() else "[invalid]"


def bleu_rows():
    rng = random.Random("corpora")
    references = [text for text in texts("references", 120) if text]
    for number in range(40):
        chosen = rng.sample(references, rng.randint(1, 7))
        hypotheses = [rng.choice([text, "", text[: len(text) // 2], " ".join(sorted(text.split())), "unlike"]) for text in chosen]
        if number < 8:
            hypotheses = chosen if number % 2 else ["unlike all of them"] * len(chosen)
        bleu = sacrebleu.corpus_bleu(hypotheses, [chosen])
        keys = ["score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len"]
        yield {"hypotheses": hypotheses, "references": chosen, **{key: getattr(bleu, key) for key in keys}}


class ModelTokens:
    def tokenize(self, text):
        return MODEL.encode(text, add_special_tokens=False).tokens


class Whitespace:
    def tokenize(self, text):
        return text.split()


def rouge_rows():
    rng = random.Random("summaries")
    kinds = ["rouge1", "rouge2", "rougeL"]
    for reference in texts("summaries", 40) + ["", "湖"]:
        prediction = rng.choice([reference, "", reference[: len(reference) // 2], " ".join(reversed(reference.split())), reference + reference])
        row = {"reference": reference, "prediction": prediction}
        for name, tokenizer in [("whitespace", Whitespace()), ("model_tokenizer", ModelTokens())]:
            scores = rouge_scorer.RougeScorer(kinds, tokenizer=tokenizer).score(reference, prediction)
            row[name] = {kind: list(scores[kind]) for kind in kinds}
        row["model_tokenizer"]["prediction_tokens"] = ModelTokens().tokenize(prediction)
        yield row


def bootstrap_rows():
    rng = random.Random("fmeasures")
    for count, seed in [(1, 1234), (2, 1234), (5, 0), (17, 1234), (40, 4294967295), (130, 1234)]:
        values = [rng.choice([0.0, 1.0, rng.random(), rng.random()]) for _ in range(count)]
        numpy.random.seed(seed)
        aggregator = scoring.BootstrapAggregator()
        for value in values:
            aggregator.add_scores({"f": scoring.Score(0.0, 0.0, value)})
        ends = {name: float(score.fmeasure) for name, score in aggregator.aggregate()["f"]._asdict().items()}
        yield {"fmeasures": values, "numpy_seed": seed, **ends, "plain_mean": float(numpy.mean(values))}


def numpy_random(seed):
    def fresh():
        return numpy.random.RandomState(seed)

    def shuffled(n):
        items = numpy.arange(n)
        fresh().shuffle(items)
        return items.tolist()

    stream, ranges = fresh(), fresh()
    return {
        "seed": seed,
        "produced_with": VERSIONS,
        "tomaxint_randint32": fresh().randint(0, 2**32, size=12, dtype=numpy.uint32).tolist(),
        "random_sample": fresh().random_sample(12).tolist(),
        "choice_arange": [[n, fresh().choice(numpy.arange(n), size=n).tolist()] for n in [1, 2, 4, 5, 31, 100]],
        "choice_stream_n": [[n, stream.choice(numpy.arange(n), size=n).tolist()] for n in [6, 1, 6, 16, 17, 2]],
        "permutation": [[n, fresh().permutation(n).tolist()] for n in [1, 2, 9, 40]],
        "shuffle": [[n, shuffled(n)] for n in [2, 9, 40]],
        "randint": [[n, ranges.randint(0, n, size=6).tolist()] for n in [1, 2, 3, 256, 1000, 2**31, 2**32, 2**40 + 1]],
    }


def protocol():
    tasks = {}
    for name, documents, pool, k in [("pool_of_its_own", 12, 8, 4), ("pool_is_the_split", 30, 30, 5), ("large_pool", 20, 4000, 1)]:
        rng = random.Random()
        rng.seed(42)
        order = list(range(documents))
        rng.shuffle(order)
        draws = [rng.sample(range(pool), k) for _ in order]
        tasks[name] = {"documents": documents, "pool": pool, "k_drawn": k, "order": order, "draws": draws}
    what = "Random(42): shuffle(documents), then one sample(pool, k) for each document in the shuffled order"
    return {"what": what, "tasks": tasks, "produced_with": VERSIONS}


def main():
    (GOLDEN / "metrics").mkdir(exist_ok=True)
    write_object(GOLDEN / "metrics" / "produced_with_jaharness.json", VERSIONS)
    words = Tokenizer13a()
    write_rows("tokenizer_13a.jsonl", [{"text": t, "tokenized": words(t.rstrip()), "rstripped_first": True} for t in ODD + texts("13a", 60)])
    write_rows("bleu_sacrebleu.jsonl", bleu_rows())
    write_rows("rouge_score.jsonl", rouge_rows())
    write_rows("rouge_bootstrap.jsonl", bootstrap_rows())
    clean = PreTrainedTokenizerBase.clean_up_tokenization
    write_rows("decode_cleanup.jsonl", [{"text": t, "cleaned": clean(t)} for t in CLEAN + texts("clean", 30)])
    answers = [(t, extract(t)) for t in NUMBERS + texts("numbers", 40)]
    write_rows("mgsm_extract.jsonl", [{"completion": t, "extracted": a, "is_integer_answer": a != "[invalid]"} for t, a in answers])
    for seed in [7, 20240731]:
        write_object(GOLDEN / "pyrandom" / f"numpy_legacy_seed_{seed}.json", numpy_random(seed))
    write_object(GOLDEN / "pyrandom" / "protocol_jp_harness.json", protocol())


if __name__ == "__main__":
    main()
