#!/usr/bin/env python3
"""Goldens of Japanese MT-Bench's judge over our samples: tests/golden/jmt-bench/judge/.

Python's own str.format, re and ast.literal_eval do what FastChat does with them (fastchat/llm_judge/common.py:160-213 of swallow-evaluation
v202407); nothing here is shared with the Rust code but the prompt texts of the task file. Needs CPython 3.11 and no package.
"""

import ast
import json
import pathlib
import re
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "tests/golden/jmt-bench/judge"
ANSWERS = ["はい、承知しました。", "{answer} と {question_1} はそのまま", "", " 前後に空白 \n", "```python\nprint({})\n```", "[[3]]"]
WORDS = ["説明です。\n\nRating: [[8]]", "評価：[6]", "評価なし", "[[7.5]] と [[1]]", "[[９]]", "[3] 参照。[[10]]", "", "[[08]]"]


def rating(text):
    for pattern in (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]"):
        match = re.search(pattern, text)
        if match:
            return ast.literal_eval(match.groups()[0])
    return -1


def main():
    task = tomllib.loads((ROOT / "tasks/swallow-202407/mt-bench/japanese_mt_bench.toml").read_text())["judge"]
    records = [json.loads(line) for line in (ROOT / "samples/japanese_mt_bench.jsonl").read_text().splitlines()]
    references = {r["record"]["question_id"]: r["record"]["choices"][0]["turns"] for r in records if r["split"] == "reference_answer"}
    requests, scoring = [], []
    for question in (r["record"] for r in records if r["split"] == "question"):
        number, category, turns = question["question_id"], question["category"], question["turns"]
        refs = references[number] if category in task["with_reference"] else None
        for turn in (1, 2):
            for choice in (0, 1):
                at = number * 4 + turn * 2 + choice
                answers = [ANSWERS[at % len(ANSWERS)], ANSWERS[(at + 1) % len(ANSWERS)]]
                prompt = task[("single" if turn == 1 else "multi") + ("_reference" if refs else "")]
                values = {"question": turns[0], "answer": answers[0]}
                for i in (0, 1):
                    values |= {f"question_{i + 1}": turns[i], f"answer_{i + 1}": answers[i]}
                    values |= {f"ref_answer_{i + 1}": refs[i]} if refs else {}
                doc_id = f"q{number}/turn{turn}/choice{choice}"
                doc = {"question": question, "answer_turns": answers, "ref_turns": refs, "judge_prompt": prompt["name"]}
                messages = [
                    {"role": "system", "content": prompt["system"]},
                    {"role": "user", "content": prompt["template"].format(**values)},
                ]
                request = {"kind": "chat", "messages": messages, "max_new_tokens": 2048, "temperature": 0, "n": 1, "stop": []}
                requests.append({"doc_id": doc_id, "doc": doc, "request": request})
                said = WORDS[at % len(WORDS)]
                try:
                    value, error = rating(said), None
                except SyntaxError as e:
                    value, error = None, type(e).__name__
                scores = {} if error else {"rating": value}
                scoring.append(
                    {"doc_id": doc_id, "response": said, "extracted": value, "error": error, "reference": None, "scores": scores}
                )
    OUT.mkdir(parents=True, exist_ok=True)
    for name, rows in (("requests.jsonl", requests), ("scoring.jsonl", scoring)):
        (OUT / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    main()
