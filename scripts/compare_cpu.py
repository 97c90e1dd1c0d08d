"""Measures this program's in-process engine beside transformers and lm-eval on the same documents, model, machine and threads.

usage: python scripts/compare_cpu.py PATH_TO_SWALLOW_EVAL MODEL_DIR [--documents N] [--only NAME,...] [--dtypes f32,bf16]

Needs torch, transformers and lm_eval. Makes documents of random tokens, asks both sides for the same, checks that they agree, and prints a
Markdown table. The other side runs at its best batch size, found on a part of the documents; loading counts on neither side. Both sides
use every core. Beside wall time stands processor time, which other people's work on the machine changes less; so that it is work and not
waiting, torch's threads sleep where they wait. `benches/figures.md` keeps the tables that we made.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARED, OWN, CHOICE = 700, 120, 20
GENERATION_SHARED, GENERATION_OWN, GENERATION_NEW = 400, 100, 64
PREFILL = 512
TRIES = 5


def tokenizer_of(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


class Writer:
    """Random text of about so many tokens, from the tokenizer's own words."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.random = random.Random(0)
        special = set(tokenizer.all_special_ids)
        words = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size) if i not in special)
        self.words = [w for w in words if w.strip() and "\ufffd" not in w]

    def text(self, tokens):
        text = ""
        while len(self.tokenizer.encode(text, add_special_tokens=False)) < tokens:
            text += "".join(self.random.choice(self.words) for _ in range(max(1, tokens // 20)))
        return text


def documents(writer, count):
    """Request rows of each workload, in the form of the goldens' requests.jsonl."""
    shots, prefix = writer.text(SHARED), writer.text(GENERATION_SHARED)
    contexts = [shots + writer.text(OWN) for _ in range(count)]
    score = lambda context, choices: {"kind": "loglikelihood", "prompt": context, "continuations": choices}
    generate = lambda prompt, new: {"kind": "generate", "prompt": prompt, "stop": [], "max_new_tokens": new, "temperature": 0.0}
    one_token = [w for w in writer.words if len(writer.tokenizer.encode("A" + w, add_special_tokens=False)) == 2][:4]
    work = {
        "prefill": [generate(writer.text(PREFILL), 1)],
        "choices of one token": [score(c, one_token) for c in contexts],
        "choices of 20 tokens": [score(c, [writer.text(CHOICE) for _ in range(4)]) for c in contexts],
        "generation": [generate(prefix + writer.text(GENERATION_OWN), GENERATION_NEW) for _ in range(min(count, 64))],
    }
    return {name: [{"doc_id": i, "request": r} for i, r in enumerate(rows)] for name, rows in work.items()}


def ours(program, model, rows, flags=()):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        source.write_text("".join(json.dumps(r) + "\n" for r in rows))
        command = [program, "bench", "requests", "--input", source, "--model", model, "--output", target, "--offline", *flags]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        answers = [json.loads(line) for line in target.read_text().splitlines()]
        return {**json.loads(said.stdout), "cpu": cpu, "answers": answers}


def best_of(program, model, name, rows):
    """As many tries as the other side has; each of ours is a process of its own."""
    return min((ours(program, model, rows) for _ in range(TRIES if name == "prefill" else 1)), key=lambda timed: timed["cpu"])


def loading(program, model):
    """Processor time of a run that does next to nothing."""
    row = {"request": {"kind": "generate", "prompt": "a", "max_new_tokens": 1}}
    return min(ours(program, model, [row])["cpu"] for _ in range(3))


def theirs(model, name, rows, dtype):
    """In a process of its own, so that its peak memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.json"), Path(folder, "out.json")
        source.write_text(json.dumps(rows))
        asleep = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
        subprocess.run([sys.executable, __file__, "--child", model, name, dtype, source, target], check=True, env=asleep)
        return json.loads(target.read_text())


def child(model, name, dtype, source, target):
    import torch

    rows = [row["request"] for row in json.loads(Path(source).read_text())]
    measure = {"prefill": prefill, "generation": generation}.get(name, scores)
    with torch.inference_mode():
        result = measure(model, {"f32": torch.float32, "bf16": torch.bfloat16}[dtype], rows)
    result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    Path(target).write_text(json.dumps(result))


def load(model, dtype):
    from transformers import AutoModelForCausalLM

    tokenizer = tokenizer_of(model)
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval(), tokenizer


def clock(work):
    wall, cpu = time.perf_counter(), time.process_time()
    answers = work()
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "answers": answers}


def best_batch(sizes, part, whole):
    """The cheapest batch size on a part of the documents, then all of them with it."""
    timed = {size: clock(lambda: part(size))["cpu"] for size in sizes}
    best = min(timed, key=timed.get)
    return {**clock(lambda: whole(best)), "batch": best}


def prefill(model, dtype, rows):
    import torch

    network, tokenizer = load(model, dtype)
    ids = tokenizer(rows[0]["prompt"], return_tensors="pt").input_ids
    tries = [clock(lambda: [[network(ids, logits_to_keep=1, use_cache=True).logits[0, -1].argmax().item()]]) for _ in range(TRIES)]
    assert ids.shape[1] >= PREFILL and torch.get_num_threads() >= 1
    return {**min(tries, key=lambda t: t["cpu"]), "batch": 1}


def scores(model, dtype, rows):
    """lm-eval's own way: requests of one context share a forward pass where a choice is one token."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    network, tokenizer = load(model, dtype)

    def run(part, size):
        harness = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=size, add_bos_token=True, max_length=4096)
        asked = [
            Instance("loglikelihood", {}, (row["prompt"], choice), i, metadata=(None, doc, 1))
            for doc, row in enumerate(part)
            for i, choice in enumerate(row["continuations"])
        ]
        flat = iter(harness.loglikelihood(asked, disable_tqdm=True))
        return [[next(flat) for _ in row["continuations"]] for row in part]

    # Eight forward passes: the choices of a context share one where each is one token.
    one_token = all(len(tokenizer.encode(c, add_special_tokens=False)) == 1 for c in rows[0]["continuations"])
    part = rows[: 8 if one_token else 2]
    return best_batch([1, 8], lambda size: run(part, size), lambda size: run(rows, size))


def generation(model, dtype, rows):
    network, tokenizer = load(model, dtype)
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token

    def run(part, size):
        answers = []
        for at in range(0, len(part), size):
            batch = tokenizer([row["prompt"] for row in part[at : at + size]], return_tensors="pt", padding=True)
            new = part[at]["max_new_tokens"]
            out = network.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            answers.extend(out[:, batch.input_ids.shape[1] :].tolist())
        return answers

    # All of them at each size: what the largest costs shows on no part.
    return min(({**clock(lambda: run(rows, size)), "batch": size} for size in sorted({16, len(rows)})), key=lambda timed: timed["cpu"])


def agreement(name, got, expected):
    """How far the answers are apart: the largest difference of log-likelihoods, or the part of texts that are equal token for token."""
    if name.startswith("choices"):
        pairs = [(g, e[0]) for row, wanted in zip(got, expected) for g, e in zip(row["loglikelihoods"], wanted)]
        verdicts = [(g, e[1]) for row, wanted in zip(got, expected) for g, e in zip(row["is_greedy"], wanted)]
        apart = max(abs(g - e) for g, e in pairs)
        return f"log-likelihoods within {apart:.1e}, {sum(g == e for g, e in verdicts)} of {len(verdicts)} verdicts equal"
    equal = sum(row["token_ids"][0] == wanted for row, wanted in zip(got, expected))
    return f"{equal} of {len(expected)} texts equal"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--only", default="")
    parser.add_argument("--dtypes", default="f32,bf16")
    args = parser.parse_args()
    program = str(Path(args.program).resolve())
    work = documents(Writer(tokenizer_of(args.model)), args.documents)
    loaded = loading(program, args.model)
    print("| workload | documents | ours, f32 | other side | its batch | wall | processor time | agreement |\n|---|---|---|---|---|---|---|---|")
    for name, rows in work.items():
        if args.only and name not in args.only.split(","):
            continue
        for dtype in args.dtypes.split(","):
            # In turns, so that both see the same machine; of each side its best.
            turns = range(4 if name == "prefill" else 1)
            turns = [(theirs(args.model, name, rows, dtype), best_of(program, args.model, name, rows)) for _ in turns]
            other, got = (min(side, key=lambda timed: timed["cpu"]) for side in zip(*turns))
            cpu = got["cpu"] - loaded
            harness = "lm-eval, hf" if name.startswith("choices") else "transformers"
            say = lambda side, cpu: f"{side['seconds']:.2f} s, {cpu:.2f} s, {side['peak_rss_mb']:.0f} MB"
            print(
                f"| {name} | {len(rows)} | {say(got, cpu)} | {harness} {dtype}: {say(other, other['cpu'])} | {other['batch']} "
                f"| {other['seconds'] / got['seconds']:.1f} times | {other['cpu'] / cpu:.1f} times "
                f"| {agreement(name, got['answers'], other['answers'])} |",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
