"""Runs GSM8K, BBH, XWINO and MMLU in this process and over a real vLLM on the CPU, with one tiny model, and compares request by request.

usage: VENV/bin/python scripts/compare_vllm.py PROGRAM MODEL_DIR VENV WORK_DIR [--limit N] [--write]
       sh ../shared/tools/real-servers/install.sh vllm VENV          (6 GB, some minutes)

SWALLOW_EVAL_DATA names the data at hand, SWALLOW_EVAL_TOOLS (default ../shared/tools) the folder with the scripts that start the server. The
server gets a copy of the model with a longer window and wider heads that computes the same function (pad_heads.py: its CPU kernels know no
head_dim 16), and both sides read that copy, in float32. First the suite is started without --skip-missing: it must stop with exit code 4 and
name every task whose data is absent. `--write` adds the table to compare_vllm.txt beside this file. Fails where a log-likelihood differs by
more than 1e-3, or a text, a verdict or a score differs.
"""

import argparse
import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import comparison

ALLOWED = 1e-3
TASKS = ["xwinograd_en", "mmlu", "gsm8k", "bbh_cot_fewshot"]
START_SECONDS = 600


class Vllm:
    """A running server; leaving the context ends it and what it started."""

    def __init__(self, tools, venv, model, log):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        options = ["--max-model-len", str(comparison.POSITIONS), "--max-num-seqs", "16"]
        command = ["sh", tools / "real-servers/serve_vllm.sh", venv, model, str(port), *options]
        self.command = f"serve_vllm.sh VENV WORK/{model.name} PORT {shlex.join(options)}"
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "2"}
        with open(log, "w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)

    def __enter__(self):
        for _ in range(START_SECONDS):
            if self.process.poll() is not None:
                break
            try:
                urllib.request.urlopen(self.url + "/models", timeout=5).read()
                return self
            except OSError:
                time.sleep(1)
        self.__exit__()
        sys.exit("vLLM does not start:\n" + "\n".join(self.log.read_text().splitlines()[-20:]))

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def missing(program, model):
    """The tasks that the whole suite is stopped for: each is named in turn by what is said when those before it are left out."""
    words = [program, "run", "--suite", "en", "--offline", "--quiet", "--dry-run", "--limit", "1", "--model", model]
    stopped = subprocess.run(words, capture_output=True, text=True)
    left_out = subprocess.run([*words, "--skip-missing"], capture_output=True, text=True)
    names = [line.split("'")[1] for line in left_out.stderr.splitlines() if "is left out" in line]
    if names and (stopped.returncode != 4 or not any(f"task '{name}'" in stopped.stderr for name in names) or left_out.returncode):
        sys.exit(f"without --skip-missing: exit {stopped.returncode}\n{stopped.stderr}\nwith it: exit {left_out.returncode}\n{left_out.stderr}")
    return names, stopped.returncode


def compare(own, served):
    """Rows of the table, and whether all is as it must be."""
    rows, good = [], True
    for task in TASKS:
        documents = [(d, served.documents[key]) for key, d in own.documents.items() if key[0] == task]
        pairs = [pair for a, b in documents for pair in zip(a["requests"], b["requests"], strict=True)]
        ids = sum(a["id"] != b["id"] for a, b in pairs)
        scored = [
            pair for a, b in pairs if a["kind"] == "log_likelihood"
            for pair in zip(a["answer"]["continuations"], b["answer"]["continuations"], strict=True)
        ]
        apart = max((abs(a["logprob"] - b["logprob"]) for a, b in scored), default=0.0)
        verdicts = sum(a["is_greedy"] != b["is_greedy"] for a, b in scored)
        texts = [(a["answer"]["text"], b["answer"]["text"]) for a, b in pairs if a["kind"] != "log_likelihood"]
        other = sum(a != b for a, b in texts)
        scores = sum(a["scores"] != b["scores"] or a["answer"] != b["answer"] for a, b in documents)
        values = [run.scores[task]["value"] for run in (own, served)]
        good &= not ids and apart <= ALLOWED and not verdicts and not other and not scores and values[0] == values[1]
        likelihoods = f"{apart:.1e} over {len(scored)}" if scored else "-"
        rows.append([
            task, len(documents), len(pairs), ids, likelihoods, verdicts if scored else "-", f"{other} of {len(texts)}" if texts else "-",
            scores, *(f"{value:.4f}" for value in values),
        ])
    return rows, good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("venv", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    program, work, venv = args.program.resolve(), args.work.resolve(), args.venv.absolute()
    tools = pathlib.Path(os.environ.get("SWALLOW_EVAL_TOOLS", comparison.ROOT / "../shared/tools")).resolve()
    python = venv / "bin/python"
    subprocess.run([python, tools / "real-servers/pad_heads.py", args.model, work / "padded"], check=True)
    model = comparison.widened(work / "padded", work / args.model.name)
    names, code = missing(program, model)
    # One number of documents does not suit all: a choice is cheap, 1,024 new tokens are not.
    counts = {"xwinograd_en": 10 * args.limit, "mmlu": args.limit, "gsm8k": args.limit, "bbh_cot_fewshot": args.limit}
    # Every k-th document, so that all 57 subjects and 27 tasks have a chance.
    sizes = {"xwinograd_en": 2325, "mmlu": 14042, "gsm8k": 1319, "bbh_cot_fewshot": 6511}
    chosen = {task: [i * sizes[task] // n for i in range(n)] for task, n in counts.items()}
    flags = ["--suite", "en", "--tasks", ",".join(TASKS), "--samples", json.dumps(chosen)]
    own = comparison.run(program, work / "own", *flags, "--model", model)
    with Vllm(tools, venv, model, work / "vllm.log") as server:
        over = ["--base-url", server.url, "--model", model.name, "--tokenizer", model]
        served = comparison.run(program, work / "served", *flags, *over)
    rows, good = compare(own, served)
    version = "import importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in ['vllm', 'torch', 'transformers']))"
    versions = subprocess.run([python, "-c", version], capture_output=True, text=True, check=True).stdout.strip()
    columns = ["task", "documents", "requests", "ids that differ", "log-likelihoods, largest difference", "greedy verdicts that differ"]
    columns += ["texts that differ", "answers or scores that differ", "score in-process", "score over vLLM"]
    lines = comparison.head(f"python scripts/compare_vllm.py PROGRAM {args.model.name} VENV WORK --limit {args.limit}", versions)
    lines += [f"server: {server.command}", f"ours: swallow-eval run --suite en --tasks {','.join(TASKS)} --samples ... (every k-th document)"]
    if names:
        lines += [f"without --skip-missing the whole suite stops with exit code {code}; left out with it: {', '.join(names)}"]
    text = "\n".join([*lines, "", *comparison.table(columns, rows)]) + "\n"
    print(text, end="")
    if args.write:
        comparison.keep("scripts/compare_vllm.txt", text)
    sys.exit(0 if good else "the two sides differ")


if __name__ == "__main__":
    main()
