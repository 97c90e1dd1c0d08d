"""Reads our exports with the programs they are for: lm-evaluation-harness 0.4.13, and a YAML parser.

    swallow-eval export RUN --to lm-eval -o OUT && VENV/bin/python scripts/check_exports.py OUT
    VENV/bin/pip install lm-eval==0.4.13 pyyaml

Prints the files that lm-eval finds and its own table of our numbers, or fails. What it said of a demo run stands in check_exports.txt.
"""

import copy
import datetime
import importlib.metadata
import json
import pathlib
import sys

import lm_eval.utils as harness
import yaml


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    names = sorted(str(path) for path in folder.rglob("*.json*"))
    results_files = harness.get_results_filenames(names)
    samples_files = harness.get_sample_results_filenames(names)
    latest = harness.get_latest_filename(results_files)
    print(f"{datetime.date.today()}, lm_eval {importlib.metadata.version('lm_eval')}")
    print(f"results files {len(results_files)}, samples files {len(samples_files)}, latest {pathlib.Path(latest).name}")

    results = json.loads(pathlib.Path(latest).read_text(encoding="utf-8"))
    print(harness.make_table(copy.deepcopy(results)))
    if "groups" in results:
        print(harness.make_table(copy.deepcopy(results), "groups"))

    # lm-eval hashes the documents of a task by this rule (loggers/evaluation_tracker.py).
    date = pathlib.Path(latest).stem.removeprefix("results_")
    for task, expected in results["task_hashes"].items():
        [path] = [name for name in samples_files if pathlib.Path(name).name == f"samples_{task}_{date}.jsonl"]
        lines = [json.loads(line) for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
        for line in lines:
            assert line["doc_hash"] == harness.hash_string(json.dumps(line["doc"], indent=2, default=harness.handle_non_serializable, ensure_ascii=False))
            assert line["prompt_hash"] == harness.hash_string(line["arguments"]["gen_args_0"]["arg_0"])
            assert line["target_hash"] == harness.hash_string(str(line["target"]))
        assert expected == harness.hash_string("".join(line["doc_hash"] + line["prompt_hash"] + line["target_hash"] for line in lines)), task
    print(f"hashes of {len(results['task_hashes'])} tasks agree")

    for path in sorted(folder.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = content["model-index"][0]["results"] if isinstance(content, dict) else content
        print(f"{path.relative_to(folder)}: {len(entries)} entries")


main()
