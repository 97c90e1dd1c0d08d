"""What compare_lm_eval.py and compare_vllm.py share: a tiny model with a long window, our runs read back, the head of a dated table."""

import datetime
import json
import os
import pathlib
import platform
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Long enough for BBH's examples in a vocabulary of 900 tokens, and its 1,024 new ones.
POSITIONS = 16384


def widened(model, out, positions=POSITIONS):
    """A copy of a model directory whose window is longer; its weights and what it computes stay the same."""
    out.mkdir(parents=True, exist_ok=True)
    for file in pathlib.Path(model).iterdir():
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    for name, key in [("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")]:
        content = json.loads((out / name).read_text())
        content[key] = positions
        (out / name).write_text(json.dumps(content, indent=1))
    settings = out / "generation_config.json"
    if settings.exists():
        # A total of prompt and answer there would end answers early, on one side only.
        content = {k: v for k, v in json.loads(settings.read_text()).items() if k != "max_length"}
        settings.write_text(json.dumps(content, indent=1))
    return out


class Run:
    """A run directory of ours: `documents` maps (task, doc_id) to its sample with `requests`, each with `prompt` and its answer."""

    def __init__(self, path):
        rows = lambda name: [json.loads(line) for line in (path / name).read_text(encoding="utf-8").splitlines()]
        self.path = path
        self.spec = json.loads((path / "run.json").read_text())
        self.scores = {task["task"]: task for task in json.loads((path / "scores.json").read_text())["tasks"]}
        answers = {row["id"]: row for row in rows("responses.jsonl")}
        self.documents = {(s["task"], s["doc_id"]): {**s, "requests": []} for s in rows("samples.jsonl")}
        prefixes = {}
        for row in rows("requests.jsonl"):
            if "id" not in row:
                prefixes[row["prefix"]] = row["text"]
                continue
            row["prompt"] = prefixes.get(row.get("prefix"), "") + row["rest"]
            row["answer"] = answers[row["id"]]
            self.documents[row["task"], row["doc_id"]]["requests"].append(row)


def run(program, output, *flags):
    """Runs `swallow-eval run` into a new folder and reads the run. Other output than the table goes to our stderr."""
    shutil.rmtree(output, ignore_errors=True)
    command = [str(program), "run", "--offline", "--quiet", "--output", str(output), *map(str, flags)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    [path] = (output / "runs").iterdir()
    return Run(path)


def head(command, versions):
    """The lines above a table: day, commit, machine, what was run with which versions. SWALLOW_EVAL_COMMIT names the commit that the program
    was built from, where that is not this tree's."""
    git = lambda *words: subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout.strip()
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    changed = " with changes" if git("status", "--porcelain", "--untracked-files=no", "src") else ""
    commit = os.environ.get("SWALLOW_EVAL_COMMIT") or git("rev-parse", "--short", "HEAD") + changed
    load = os.getloadavg()[0]
    return [
        f"{datetime.date.today()}, commit {commit}",
        f"machine: {os.cpu_count()} cores of {processor}, load {load:.0f}",
        f"command: {command}",
        f"versions: {versions}",
    ]


def table(columns, rows):
    """A Markdown table in lines."""
    line = lambda cells: "| " + " | ".join(str(cell) for cell in cells) + " |"
    return [line(columns), "|" + "---|" * len(columns), *map(line, rows)]


def keep(name, text):
    """Adds a table to a file of this repository, behind those that are there."""
    path = ROOT / name
    before = path.read_text(encoding="utf-8") + "\n" if path.exists() else ""
    path.write_text(before + text, encoding="utf-8")
