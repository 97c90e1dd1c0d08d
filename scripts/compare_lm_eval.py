"""Runs GSM8K, BBH, XWINO and MMLU with this program and with lm-evaluation-harness 0.4.13 on one tiny model, and compares document by document.

usage: VENV/bin/python scripts/compare_lm_eval.py PROGRAM MODEL_DIR WORK_DIR [--limit N] [--write]
       VENV/bin/pip install 'lm-eval[hf]==0.4.13' transformers==5.23.0 torch==2.13.0

SWALLOW_EVAL_DATA names the data at hand. PROGRAM is this program, MODEL_DIR a model in Hugging Face layout; a copy of it with a longer window
is made in WORK_DIR. lm-eval runs as a program of its own (`--model hf`, CPU, float32, add_bos_token=False) and without a network: its tasks
here are YAML files over local copies of the records, with the templates, splits, filters and stop strings of v0.4.2. 0.4.13 still has them but
for three things: it keeps the last line feed of a template, which v0.4.2 loses (so MMLU's description is written with one), it draws BBH's
examples as shots, and an evaluated document may be among its own shots (XWINO is asked up to the first that is). Nothing of our prompts goes
into the tasks, so equal prompts are a result. Compared are prompts, log-likelihoods of every choice, texts, and answers after the filters;
`--write` adds the table to compare_lm_eval.txt beside this file. Fails where a log-likelihood differs by more than 1e-3, or a prompt, an answer or
a score differs.
"""

import argparse
import csv
import gzip
import importlib.metadata
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tomllib

import comparison

ALLOWED = 1e-3
# The first document of XWINO among whose shots 0.4.13 has the document itself.
FIRST_OWN_SHOT = 155
SUBJECTS = ["international_law", "college_mathematics", "moral_scenarios"]
BBH = ["formal_fallacies", "date_understanding", "word_sorting"]
BOS_OFF = "add_bos_token=False"

GSM8K = r"""
task: ours_gsm8k
output_type: generate_until
training_split: train
fewshot_split: train
test_split: test
doc_to_text: "Question: {{question}}\nAnswer:"
doc_to_target: "{{answer}}"
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
    regexes_to_ignore: [",", "\\$", "(?s).*#### ", "\\.$"]
generation_kwargs:
  until: ["Question:", "</s>", "<|im_end|>"]
  do_sample: false
  temperature: 0.0
num_fewshot: 4
filter_list:
  - name: "strict-match"
    filter: [{function: "regex", regex_pattern: "#### (\\-?[0-9\\.\\,]+)"}, {function: "take_first"}]
  - name: "flexible-extract"
    filter: [{function: "regex", group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}, {function: "take_first"}]
"""

# v0.4.2 has description and examples in the YAML of each task; here they are fields of every record.
BBH_YAML = r"""
task: ours_bbh_NAME
output_type: generate_until
test_split: test
doc_to_text: "{{description}}\n{{examples}}\n\nQ: {{input}}\nA: Let's think step by step."
doc_to_target: "{{target}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
generation_kwargs:
  until: ["</s>", "Q", "\n\n"]
  do_sample: false
  temperature: 0.0
  max_gen_toks: 1024
num_fewshot: 0
filter_list:
  - name: "get-answer"
    filter: [{function: "regex", regex_pattern: "(?<=the answer is )(.*)(?=.)"}, {function: "take_first"}]
"""

MMLU = r"""
task: ours_mmlu_NAME
output_type: multiple_choice
test_split: test
fewshot_split: dev
fewshot_config: {sampler: first_n}
description: "The following are multiple choice questions (with answers) about WORDS.\n"
doc_to_text: "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
num_fewshot: 5
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

XWINO = r"""
task: ours_xwinograd_en
output_type: multiple_choice
test_split: test
doc_to_text: !function xwino.doc_to_text
doc_to_target: !function xwino.doc_to_target
doc_to_choice: !function xwino.doc_to_choice
num_fewshot: 4
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

# The multiple-input mode: the choices are contexts, the target is what both go on with.
XWINO_FUNCTIONS = """
def doc_to_text(doc):
    return int(doc["answer"]) - 1

def doc_to_target(doc):
    return doc["sentence"].partition("_")[2].strip()

def doc_to_choice(doc):
    return [doc["sentence"].partition("_")[0] + option for option in (doc["option1"], doc["option2"])]
"""


def records(path):
    """The lines of a file that may be compressed."""
    packed = path.with_name(path.name + ".gz")
    return gzip.open(packed, "rt", encoding="utf-8", newline="") if packed.exists() else open(path, encoding="utf-8", newline="")


def mmlu(data, split, subject):
    rows = csv.DictReader(records(data / "mmlu" / split / f"{subject}_{split}.csv"))
    return [{"question": r["question"], "choices": [r[f"choice{i}"] for i in range(4)], "answer": int(r["answer"])} for r in rows]


def bbh(data, name):
    prompts = (data / "bbh/cot-prompts" / f"{name}.txt").read_text(encoding="utf-8")
    *description, first, second, third = prompts.split("\n-----\n")[-1].split("\n\n")
    shown = {"description": "\n\n".join(description), "examples": "\n\n".join([first, second, third])}
    return [{**shown, **record} for record in json.loads((data / "bbh/bbh" / f"{name}.json").read_text())["examples"]]


def xwino(data):
    """The English rows: the pronoun becomes `_`. Tokens are aligned with the raw text, where quotation marks may be written otherwise."""
    for line in records(data / "xwino/dataset.tsv"):
        language, _, _, raw, tokens, pronoun, candidates = line.rstrip("\r\n").split("\t")[:7]
        if language != "en":
            continue
        (start, end), at, places = json.loads(pronoun)[1], 0, []
        for token in json.loads(tokens):
            found = raw.find(token, at)
            if token in ("``", "''") and (found < 0 or raw.find('"', at) in range(at, found)):
                found, token = raw.find('"', at), '"'
            places.append((found, found + len(token)))
            at = found + len(token)
        one, two = json.loads(candidates)
        sentence = raw[: places[start][0]] + "_" + raw[places[end - 1][1] :]
        yield {"sentence": sentence, "option1": one[0], "option2": two[0], "answer": "1" if one[3] else "2"}


def write_task(folder, name, yaml, splits):
    files = {}
    for split, rows in splits.items():
        path = folder / f"{name}.{split}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        files[split] = str(path)
    (folder / f"{name}.yaml").write_text(f"dataset_path: json\ndataset_kwargs: {json.dumps({'data_files': files})}\n{yaml}metadata: {{version: 1.0}}\n")


def tasks(data, folder):
    """Writes lm-eval's tasks, each beside its records."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = lambda path: [json.loads(line) for line in records(path)]
    write_task(folder, "gsm8k", GSM8K, {split: lines(data / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")})
    (folder / "xwino.py").write_text(XWINO_FUNCTIONS)
    write_task(folder, "xwinograd_en", XWINO, {"test": list(xwino(data))})
    for name in BBH:
        write_task(folder, f"bbh_{name}", BBH_YAML.replace("NAME", name), {"test": bbh(data, name)})
    for name in SUBJECTS:
        yaml = MMLU.replace("NAME", name).replace("WORDS", name.replace("_", " "))
        write_task(folder, f"mmlu_{name}", yaml, {split: mmlu(data, split, name) for split in ("dev", "test")})


def part_sizes(program, data, task):
    """Number of documents of each part of a benchmark, in the protocol's order."""
    shown = tomllib.loads(subprocess.run([program, "tasks", "show", task], check=True, capture_output=True, text=True).stdout)
    size = {
        "mmlu": lambda name: len(mmlu(data, "test", name)),
        "bbh_cot_fewshot": lambda name: len(json.loads((data / "bbh/bbh" / f"{name}.json").read_text())["examples"]),
    }[task]
    return {part["name"]: size(part["name"]) for part in shown["subset"]}


def samples(program, data, limit):
    """`--samples` of our run, and the name that lm-eval's side has for each document, by task and document number."""
    chosen, names = {}, {}
    counts = {"gsm8k": limit, "xwinograd_en": min(5 * limit, FIRST_OWN_SHOT), "mmlu": limit, "bbh_cot_fewshot": max(1, limit // 3)}
    for task in ("gsm8k", "xwinograd_en"):
        chosen[task] = list(range(counts[task]))
        names |= {(task, i): (f"ours_{task}", i) for i in chosen[task]}
    for task, short, parts in [("mmlu", "mmlu", SUBJECTS), ("bbh_cot_fewshot", "bbh", BBH)]:
        begin, chosen[task] = 0, []
        for part, size in part_sizes(program, data, task).items():
            wanted = range(min(size, counts[task])) if part in parts else []
            chosen[task] += [begin + i for i in wanted]
            names |= {(task, begin + i): (f"ours_{short}_{part}", i) for i in wanted}
            begin += size
    return chosen, names, counts


def lm_eval(folder, output, model, names, limit):
    """Runs the program for tasks with one limit, and gives the lines of its samples files by task, document and filter."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32,{BOS_OFF}"]
    command += ["--tasks", ",".join(names), "--include_path", folder, "--limit", limit, "--device", "cpu", "--batch_size", 8]
    command += ["--log_samples", "--output_path", output, "--seed", "0,1234,1234,1234"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(folder / "cache")}
    said = subprocess.run([str(word) for word in command], env={**os.environ, **offline}, capture_output=True, text=True)
    if said.returncode:
        sys.exit(said.stdout + said.stderr)
    found = {}
    for name in names:
        [path] = output.rglob(f"samples_{name}_*.jsonl")
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            found[name, line["doc_id"], line["filter"]] = line
        path.unlink()
    return found, command


def compare(ours, theirs, names):
    """Rows of the table, and whether all is as it must be."""
    tally = {}
    for (task, doc), document in ours.documents.items():
        name, number = names[task, int(doc)]
        scored = document.get("log_likelihoods")
        readings = {ours.scores[task].get("filter") or "none": document["answer"], **document.get("readings", {})}
        for filter, answer in readings.items():
            line = theirs[name, number, filter]
            row = tally.setdefault((task, filter), {"n": 0, "prompts": 0, "choices": 0, "apart": 0.0, "answers": 0, "texts": 0, "scores": 0})
            arguments = list(line["arguments"].values())
            pairs = [(r["prompt"], c) for r in document["requests"] for c in r.get("continuations", [None])]
            row["n"] += 1
            row["prompts"] += [p for p, _ in pairs] != [a["arg_0"] for a in arguments]
            if scored:
                values = [float(r[0][0]) for r in line["resps"]]
                row["choices"] += len(values)
                row["apart"] = max([row["apart"], *(abs(a - b) for a, b in zip(scored, values, strict=True))])
                row["answers"] += scored.index(max(scored)) != values.index(max(values))
            else:
                row["texts"] += document["requests"][0]["answer"]["text"] != line["resps"][0][0]
                row["answers"] += answer != line["filtered_resps"][0]
            metric = line["metrics"][0]
            own = document["scores"].get(f"{metric},{filter}", document["scores"].get(metric))
            row["scores"] += own != float(line[metric])
    rows = []
    for (task, filter), t in tally.items():
        apart = f"{t['apart']:.1e} over {t['choices']}" if t["choices"] else "-"
        rows.append([task, filter, t["n"], t["prompts"], apart, "-" if t["choices"] else t["texts"], t["answers"], t["scores"]])
    good = all(t["apart"] <= ALLOWED and not (t["prompts"] or t["answers"] or t["scores"]) for t in tally.values())
    return rows, good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    data = pathlib.Path(os.environ["SWALLOW_EVAL_DATA"])
    program, work = args.program.resolve(), args.work.resolve()
    model = comparison.widened(args.model, work / args.model.name)
    tasks(data, work / "tasks")
    chosen, names, counts = samples(program, data, args.limit)
    flags = ["--suite", "en", "--tasks", ",".join(chosen), "--samples", json.dumps(chosen), "--model", model]
    ours = comparison.run(program, work / "ours", *flags)
    theirs, command = {}, None
    for task, limit in counts.items():
        of_task = list(dict.fromkeys(name for (t, _), (name, _) in names.items() if t == task))
        found, command = lm_eval(work / "tasks", work / "theirs", model, of_task, limit)
        theirs |= found
    rows, good = compare(ours, theirs, names)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ["lm_eval", "transformers", "torch", "tokenizers", "datasets"])
    said = f"python scripts/compare_lm_eval.py PROGRAM {args.model.name} WORK --limit {args.limit}"
    columns = ["task", "filter", "documents", "prompts that differ", "log-likelihoods, largest difference", "texts that differ"]
    columns += ["answers that differ", "scores that differ"]
    lines = comparison.head(said, versions)
    shown = shlex.join(str(word).replace(str(work), "WORK") for word in command[1:])
    lines += [f"ours: swallow-eval run {shlex.join(str(f).replace(str(work), 'WORK') for f in flags[:4])} --samples ... --model WORK/{args.model.name}"]
    lines += [f"theirs: python {shown} (and the same for the other tasks)", "", *comparison.table(columns, rows)]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if args.write:
        comparison.keep("scripts/compare_lm_eval.txt", text)
    sys.exit(0 if good else f"log-likelihoods more than {ALLOWED} apart, or prompts, answers or scores that differ")


if __name__ == "__main__":
    main()
