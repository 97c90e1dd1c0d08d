"""Times `bench segment` against Python nagisa on the same texts, one core each, and compares every word.

usage: python scripts/segment_against_nagisa.py PATH_TO_SWALLOW_EVAL [LINES]

Needs nagisa 0.2.11, and SWALLOW_EVAL_DATA with wmt20 and nagisa. The texts are the Japanese side of WMT20 en-ja and ja-en as the harness
passes them, LINES of them (all unless given). The two take turns, three times; the best of each counts. Loading is apart on both sides. Ends
with status 1 where a word differs. The committed output is scripts/segment_against_nagisa.txt.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import nagisa

PROGRAM = str(Path(sys.argv[1]).resolve())
LINES = int(sys.argv[2]) if len(sys.argv) > 2 else None
WORK = Path(tempfile.mkdtemp())

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def texts():
    data = Path(os.environ["SWALLOW_EVAL_DATA"])
    found = []
    for path in sorted((data / "wmt20").rglob("*.ja")):
        found += [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return found[:LINES]


def ours(threads):
    command = [PROGRAM, "bench", "segment", "--offline", "--threads", str(threads), "--input", str(WORK / "in.jsonl"), "--output", str(WORK / "out.jsonl")]
    affinity = None if threads == 1 else (lambda: os.sched_setaffinity(0, range(os.cpu_count())))
    run = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=affinity)
    return json.loads(run.stdout)["seconds"]


def theirs(lines):
    start = time.perf_counter()
    words = [nagisa.tagging(line).words for line in lines]
    return time.perf_counter() - start, words


lines = texts()
(WORK / "in.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
rounds = [(ours(1), *theirs(lines)) for _ in range(3)]
found = [json.loads(row)["words"] for row in (WORK / "out.jsonl").read_text(encoding="utf-8").splitlines()]
different = sum(a != b for a, b in zip(found, rounds[0][2], strict=True))
mine, python = min(r[0] for r in rounds), min(r[1] for r in rounds)
characters = sum(map(len, lines))
print(f"swallow-eval {subprocess.run([PROGRAM, '--version'], capture_output=True, text=True).stdout.split()[1]}, nagisa {version('nagisa')}, Python {sys.version.split()[0]}")
print(f"{len(lines)} texts, {characters} characters, {different} of them segmented otherwise")
print(f"one core: nagisa {python:.2f} s ({len(lines) / python:.0f} texts/s), swallow-eval {mine:.2f} s ({len(lines) / mine:.0f} texts/s): {python / mine:.1f} times as fast")
cores = os.cpu_count()
many = min(ours(cores) for _ in range(3))
print(f"{cores} cores: swallow-eval {many:.2f} s ({len(lines) / many:.0f} texts/s): {mine / many:.2f} times one core")
sys.exit(different > 0)
