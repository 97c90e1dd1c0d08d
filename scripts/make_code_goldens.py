#!/usr/bin/env python3
"""Records goldens of the code tasks over our own samples: tests/golden/code/{humaneval,jhumaneval}.

An independent, plain reading of bigcode-evaluation-harness 0261c52 (humaneval.py:52-92, code_eval.py:146,174-189): it executes our own
sample programs in fresh interpreters, without any sandbox. usage: scripts/make_code_goldens.py
"""
import hashlib
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
STOPS = ["\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>"]
RUN = "import sys\ntry:\n exec(sys.stdin.read(), {})\n print('passed')\nexcept BaseException as e:\n print('failed: ' + str(e).split(chr(10))[0])"


def cut(text, stops):
    places = [text.index(s) for s in stops if s in text]
    return text[: min(places)] if places else text


def execute(program):
    done = subprocess.run([sys.executable, "-I", "-c", RUN], input=program, capture_output=True, text=True, timeout=20)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "timed out"


def answers(record):
    right = record["canonical_solution"]
    return {
        "canonical": right,
        "next_def": right + "\n\ndef other():\n    return 1\n",
        "next_hash": right + "\n# more\n",
        "print": right + "\nprint(1)\n",
        "empty": "",
        "wrong": "    return None\n",
        "default": right + "\ndefault = 1\n",
        "indent": right.replace("    ", "   ", 1) + "  x\n",
    }


def write(folder, name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")


def record_task(name):
    folder = ROOT / "tests/golden/code" / name
    folder.mkdir(parents=True, exist_ok=True)
    lines = (ROOT / "samples" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line)["record"] for line in lines]
    requests, post, scoring, correct, predictions = [], [], [], [], []
    settings = {"stop": STOPS, "stop_also": "<tokenizer eos_token>", "max_total_tokens": 1024, "temperature": 0.2, "top_p": 0.95}
    for index, record in enumerate(records):
        doc_id, prompt = record["task_id"], record["prompt"]
        request = {"kind": "generate", "prompt": prompt, **settings, "top_k": 0, "n": 10}
        requests.append({"doc_id": doc_id, "index": index, "doc": record, "request": request})
        reference = "\n" + record["test"] + "\n" + f"check({record['entry_point']})"
        for tokenizer, eos, foreign in [("a", "<|eot_id|>", "<|end_of_text|>"), ("b", "<|im_end|>", "<|endoftext|>")]:
            for kind, answer in answers(record).items():
                for end in (eos, foreign):
                    completion = cut(answer + end, STOPS + [eos])
                    row = {"doc_id": doc_id, "index": index, "tokenizer": tokenizer, "eos_token": eos, "kind": kind, "response": answer + end}
                    post.append({**row, "extracted": prompt + completion, "extracted_completion": completion})
        whole = "x" + prompt[1:] + record["canonical_solution"] + "<|eot_id|>"
        row = {"doc_id": doc_id, "index": index, "tokenizer": "a", "eos_token": "<|eot_id|>", "kind": "prompt_differs", "response": None}
        completion = cut(whole[len(prompt) :], STOPS + ["<|eot_id|>"])
        post.append({**row, "raw_decoded": whole, "extracted": prompt + completion, "extracted_completion": completion})
        verdicts = []
        for kind, answer in answers(record).items():
            code = prompt + cut(answer, STOPS)
            program = code + "\n" + reference
            result = execute(program)
            verdicts.append((code, result == "passed"))
            digest = hashlib.sha256(program.encode()).hexdigest()
            row = {"doc_id": doc_id, "index": index, "kind": kind, "response": answer, "extracted": code, "reference": reference}
            scores = {"passed": float(result == "passed")}
            scoring.append({**row, "program_sha256": digest, "timing_sensitive": False, "result": result, "scores": scores})
        ten = (verdicts + verdicts)[:10]
        predictions.append([code for code, _ in ten])
        correct.append([passed for _, passed in ten])

    def pass_at(k):
        values = []
        for passed in correct:
            n, c, product = len(passed), sum(passed), 1.0
            for i in range(n - c + 1, n + 1):
                product *= 1.0 - k / i
            values.append(1.0 if n - c < k else 1.0 - product)
        return sum(values) / len(values)

    shares = {"pass@1": pass_at(1), "pass@10": pass_at(10)}
    run = {"task_ids": [r["task_id"] for r in records], "predictions": predictions, "correct": correct, "pass_at_k": shares}
    (folder / "pass_at_k_run.json").write_text(json.dumps(run, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    metrics = {"passed": sum(s["scores"]["passed"] for s in scoring) / len(scoring)}
    metrics |= {f"{name} (pass_at_k_run.json)": value for name, value in shares.items()}
    summary = {"n": len(scoring), "metrics": metrics, "settings": {"stop_words": STOPS}, "produced_with": {"script": "scripts/make_code_goldens.py"}}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (folder / "fewshot.json").write_text("[]\n")
    write(folder, "requests.jsonl", requests)
    write(folder, "postprocess.jsonl", post)
    write(folder, "scoring.jsonl", scoring)


for task in ("humaneval", "jhumaneval"):
    record_task(task)
