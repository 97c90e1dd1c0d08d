"""Times `bench execute` against bare `python3 -I -c` runs of the same programs, with the same number at the same time.

usage: python scripts/execute_against_python.py PATH_TO_SWALLOW_EVAL [--python PATH] [--jobs N] [--times N]

Needs SWALLOW_EVAL_DATA with humaneval. The programs are HumanEval's canonical solutions with their tests, each N times (10 unless given, 1640
in all). The two take turns, three times; the best of each counts. The bare runs get the program and nothing else: no limits, no sandbox, no
verdict but the exit status. Ends with status 1 where a verdict differs. The committed output is scripts/execute_against_python.txt.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from os import environ
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("--python", default="python3")
parser.add_argument("--jobs", type=int, default=2)
parser.add_argument("--times", type=int, default=10)
args = parser.parse_args()
WORK = Path(tempfile.mkdtemp())


def records():
    path = next((Path(environ["SWALLOW_EVAL_DATA"]) / "humaneval").rglob("*.jsonl*"))
    text = gzip.open(path, "rt", encoding="utf-8").read() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def program(record):
    return "{prompt}{canonical_solution}\n{test}\ncheck({entry_point})\n".format(**record)


def ours(level):
    command = [args.program, "bench", "execute", "--input", str(WORK / "in.jsonl"), "--output", str(WORK / "out.jsonl")]
    command += ["--sandbox", level, "--sandbox-jobs", str(args.jobs), "--python", args.python]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["seconds"]


def bare(programs):
    def one(text):
        command = [args.python, "-I", "-c", text]
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode

    start = time.perf_counter()
    with ThreadPoolExecutor(args.jobs) as pool:
        status = list(pool.map(one, programs))
    return time.perf_counter() - start, status


programs = [program(record) for record in records()] * args.times
(WORK / "in.jsonl").write_text("".join(json.dumps(p) + "\n" for p in programs), encoding="utf-8")
version = subprocess.run([args.python, "--version"], capture_output=True, text=True).stdout.strip()
print(f"{len(programs)} programs, {args.jobs} at a time, {version}")
failed = 0
for level in ["namespaces", "landlock"]:
    rounds = [(bare(programs), ours(level)) for _ in range(3)]
    verdicts = [json.loads(row)["verdict"] for row in (WORK / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    differ = sum((v == "passed") != (s == 0) for v, s in zip(verdicts, rounds[0][0][1], strict=True))
    plain, held = min(b[0] for b, _ in rounds), min(o for _, o in rounds)
    print(f"{level}: bare {plain:.1f} s, sandbox {held:.1f} s: {held / plain:.2f} times; {verdicts.count('passed')} passed, {differ} verdicts differ")
    failed += differ
sys.exit(failed > 0)
