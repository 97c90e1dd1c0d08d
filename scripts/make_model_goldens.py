"""Makes tests/golden/models/micro-llama/: a micro model and what transformers computes with it.

The model is a Llama with grouped-query attention, a head_dim of its own, llama3 rope scaling that bites within its context, two end tokens
and float32 weights, trained for some seconds on the texts of samples/ so that it prefers something. The goldens are float32 on the CPU,
eager attention, one sequence at a time, no padding.

    python3 -m venv VENV && VENV/bin/pip install -r scripts/requirements.txt
    VENV/bin/python scripts/make_model_goldens.py

Seeded, one thread. Log-likelihood rules are those of lm-evaluation-harness 0.4 (`lm_eval/api/model.py`, `TemplateLM._encode_pair`).
"""

import json
import math
import random
from pathlib import Path

import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import make_goldens as goldens
import train_demo_model as demo

OUT = goldens.GOLDEN / "models" / "micro-llama"
SEED = 7
CONTEXT = 256
VOCABULARY = 448
NEW_TOKENS = 64
TURN, END_TURN = "<|turn|>", "<|end_turn|>"
SPECIALS = [demo.BOS, demo.EOS, TURN, END_TURN]
TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message.role == 'system' and not loop.first %}{{- raise_exception('a system message must come first') }}{%- endif %}"
    "{{- '<|turn|>' ~ message.role ~ '\\n' ~ (message.content | trim) ~ '<|end_turn|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|turn|>assistant\\n' }}{%- endif %}"
)

TEXTS = ["Hello, world!", " before", "after ", "two  blanks  each", "みどり町の時計台は1905年に建てられた。", "ｶﾞｷﾞｸﾞ ４５６", "naïve cafe\u0301"]
TEXTS += ["か\u3099", "が", "one\n\ntwo\n", "\t\tx", "9876543210", "🎐🧪👨\u200d🍳", "", "<|begin_of_text|>x", "<|end_turn|>", "<|unknown|>"]
TEXTS += ["we'll THEY'VE can't", "line\r\nbreak", "鬱", "\x00", "「…」（！）", "if x > 0:\n    y = x\n", "Z", "\u3000全角\u3000", "a . b ? c ! d , e n't"]

PROMPTS = ["質問：日本で一番高い山は何ですか？", "質問：地球の衛星は", "月見橋は", "選択肢：A.", "文章：", "0", "一週間は何日ですか？\n", "白い花が咲き"]
PROMPTS += ["太陽系で一番大きい惑星は", "レオナルド・", "源頼朝", "塩辛い", "###", "x = ", "  ", "YES", "3776m", "、", "は", "都市に人口が集まる"]

STOPS = [["\n"], ["\n\n", "質問"], ["。"], ["は"], ["どれ"], ["か。", "A.", "選択"]]

SAMPLINGS = [(1.0, 0, 1.0), (0.7, 0, 1.0), (0.2, 0, 0.95), (0.8, 0, 0.9), (1.0, 20, 1.0), (0.7, 20, 0.8), (1.5, 0, 0.5)]

CHATS = [
    [{"role": "user", "content": "日本で一番高い山は何ですか？"}],
    [{"role": "system", "content": "短く答えてください。"}, {"role": "user", "content": "  前後に空白  "}],
    [{"role": "system", "content": ""}, {"role": "user", "content": "hi"}],
    [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": " 2\n"}, {"role": "user", "content": "2+2?\n改行\n"}],
    [{"role": "user", "content": "<|end_turn|> in a question"}, {"role": "assistant", "content": "ok"}],
    [{"role": "user", "content": ""}],
]

# (name, context, continuations); main() adds one that is too long and some that greedy decoding made.
GROUPS = [
    ("mc-ja", "質問：日本の首都はどこですか？\n回答：", ["東京", "京都", "大阪", "パリ"]),
    ("mc-en", "Question: What is 2 + 3?\nAnswer:", [" 5", " 6", " five"]),
    ("letters", "選択肢：A.赤,B.青,C.緑,D.白\n\n### 応答:\n", ["A", "B", "C", "D"]),
    ("trailing-space", "Answer: ", ["yes", "no"]),
    ("trailing-newlines", "文章の終わり。\n\n", ["質問：何か", "次"]),
    ("empty-context", "", ["富士山", "The", "\n"]),
    ("bytes", "絵文字🎐と漢字：", ["鬱", "🎐", "é"]),
    ("long-continuation", "文章：月見橋", [" [SEP] 月見橋は、二つの村をつなぐ木の橋である。", "橋" * 40]),
    ("one-token", "Z", ["A", " ", "\n"]),
    # A merge swallows the border: the whole has no more tokens than the context.
    ("merge-across", "次の質", ["問", "問：何", "屋"]),
    ("merge-across-longer", "### 応", ["答", "答:\n", "用"]),
]


def corpus():
    """Question and answer of every sample, as plain text."""
    texts = []
    for task in goldens.TASKS:
        for documents in goldens.arrange(task):
            texts += [f"{d['input']}\n\n### 応答:\n{d['output']}" for d in documents]
    return texts


def make_model(texts):
    tokenizer = demo.llama3_tokenizer(texts, VOCABULARY, SPECIALS)
    ids = {token: tokenizer.token_to_id(token) for token in SPECIALS}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        tie_word_embeddings=False,
        bos_token_id=ids[demo.BOS],
        eos_token_id=[ids[demo.EOS], ids[END_TURN]],
    )
    model = LlamaForCausalLM(config)
    train(model, tokenizer, texts)
    # As instruction-tuned models ship: an engine must apply only what a request asks for.
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)
    model.save_pretrained(OUT)
    tokenizer.save(str(OUT / "tokenizer.json"), pretty=False)
    more = {"eos_token": END_TURN, "chat_template": TEMPLATE}
    goldens.write_json(OUT / "tokenizer_config.json", demo.tokenizer_config(tokenizer, SPECIALS, CONTEXT, **more), indent=2)
    goldens.write_json(OUT / "special_tokens_map.json", {"bos_token": demo.BOS, "eos_token": END_TURN}, indent=2)


def train(model, tokenizer, texts):
    """A few passes over the texts, each ended by an end token; the weights grow large enough for clear preferences."""
    rng = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(250):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / 250)
        rows = [tokenizer.encode(text).ids[:120] + [tokenizer.token_to_id(END_TURN)] for text in rng.sample(texts, 12)]
        ids = torch.full((12, max(map(len, rows))), -100)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
        loss = model(input_ids=ids.clamp(min=0), labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"micro model: {model.num_parameters():,} parameters, loss {loss:.3f}")


@torch.no_grad()
def logits_of(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def gap(row):
    best = row.topk(2).values
    return float(best[0] - best[1])


def tokenize_rows(tokenizer, texts):
    for text in texts:
        with_special = tokenizer(text).input_ids
        ids = tokenizer(text, add_special_tokens=False).input_ids
        yield {
            "text": text,
            "ids_with_special": with_special,
            "ids": ids,
            "decoded": tokenizer.decode(ids, clean_up_tokenization_spaces=False),
            "decoded_skip_special": decode(tokenizer, with_special),
            "hf_decode_skip_special": tokenizer.decode(with_special, skip_special_tokens=True),
        }


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def logits_files(model, stream):
    tensors, index = {}, []
    for case, length in enumerate([1, 2, 3, 17, 64, 65, 130, 250]):
        ids = stream[case * 11 : case * 11 + length]
        logits = logits_of(model, ids)
        positions = sorted({0, length // 2, length - 1})
        rows = logits[positions]
        tensors[f"case{case}.logits"] = rows.contiguous()
        targets = torch.tensor(ids[1:], dtype=torch.long)
        nll = torch.nn.functional.cross_entropy(logits[:-1], targets, reduction="sum").item() if length > 1 else 0.0
        sums = {"argmax": rows.argmax(-1).tolist(), "logsumexp": rows.logsumexp(-1).tolist(), "nll_sum_of_ids_1..": nll}
        index.append({"case": case, "ids": ids, "positions": positions, **sums})
    save_file(tensors, OUT / "golden" / "logits.safetensors")
    goldens.write_json(OUT / "golden" / "logits_index.json", index, indent=None)


def encode_pair(tokenizer, context, continuation, special):
    """(encoding, context ids, continuation ids)."""

    def encode(text, add=special):
        return tokenizer(text, add_special_tokens=add).input_ids

    if context == "":
        return "prefix-token", [tokenizer.convert_tokens_to_ids(demo.EOS)], encode(continuation)
    blanks = len(context) - len(context.rstrip())
    if blanks:
        context, continuation = context[:-blanks], context[-blanks:] + continuation
    whole, before = encode(context + continuation), encode(context)
    if len(whole) > len(before):
        return "pair", before, whole[len(before) :]
    return "separate", before, encode(continuation, False)


def loglikelihood_rows(model, tokenizer, groups):
    for special in [True, False]:
        for name, context, continuations in groups:
            for number, continuation in enumerate(continuations):
                encoding, before, after = encode_pair(tokenizer, context, continuation, special)
                fed = (before + after)[-(CONTEXT + 1) :][:-1]
                logits = logits_of(model, fed)[-len(after) :]
                logprobs = logits.log_softmax(-1)[range(len(after)), after].tolist()
                greedy = logits.argmax(-1).tolist()
                yield {
                    "id": f"grp-{name}/{number}/{'bos' if special else 'nobos'}",
                    "group": f"grp-{name}",
                    "add_special_tokens": special,
                    "encoding": encoding,
                    "context": context,
                    "continuation": continuation,
                    "context_ids": before,
                    "continuation_ids": after,
                    "input_len_after_truncation": len(fed),
                    "token_logprobs": logprobs,
                    "logprob": sum(logprobs),
                    "is_greedy": greedy == after,
                    "greedy_ids": greedy,
                    "min_top2_gap": min(gap(row) for row in logits),
                }


def generate_rows(model, tokenizer):
    ends = model.config.eos_token_id
    for number, prompt in enumerate(PROMPTS):
        for ignore_eos in [False, True]:
            prompt_ids = tokenizer(prompt).input_ids
            output, smallest, finish = [], math.inf, "length"
            while len(output) < NEW_TOKENS and finish == "length":
                row = logits_of(model, prompt_ids + output)[-1]
                smallest = min(smallest, gap(row))
                output.append(int(row.argmax()))
                if output[-1] in ends and not ignore_eos:
                    finish = "eos"
            yield {
                "id": f"gen{number:02}" + ("-noeos" if ignore_eos else ""),
                "ignore_eos": ignore_eos,
                "prompt": prompt,
                "prompt_ids": prompt_ids,
                "max_new_tokens": NEW_TOKENS,
                "eos_token_ids": ends,
                "output_ids": output,
                "finish": finish,
                "text": decode(tokenizer, output),
                "min_top2_gap": smallest,
            }


def disagreements(model, rows):
    """How many rows `model.generate()` answers otherwise."""
    wrong = 0
    for row in rows:
        ids = torch.tensor([row["prompt_ids"]])
        ends = None if row["ignore_eos"] else row["eos_token_ids"]
        settings = {"do_sample": False, "max_new_tokens": NEW_TOKENS, "eos_token_id": ends, "pad_token_id": 0, "temperature": None, "top_p": None}
        made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, ids.shape[1] :].tolist()
        wrong += made != row["output_ids"]
    return wrong


def stop_rows(generated):
    for row in generated:
        for stop in STOPS:
            found = [row["text"].find(text) for text in stop if text in row["text"]]
            text = row["text"][: min(found)] if found else row["text"]
            yield {"gen_id": row["id"], "stop": stop, "text": text, "stopped": bool(found)}


def sampling_rows(model, tokenizer):
    for prompt in [PROMPTS[0], PROMPTS[5], PROMPTS[18]]:
        ids = tokenizer(prompt).input_ids
        for temperature, top_k, top_p in SAMPLINGS:
            warpers = [TemperatureLogitsWarper(temperature)]
            warpers += [TopKLogitsWarper(top_k)] if top_k else []
            warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
            scores = logits_of(model, ids)[-1:]
            for warper in warpers:
                scores = warper(None, scores)
            probabilities = scores.softmax(-1)[0]
            support = int((scores[0] > -math.inf).sum())
            best = probabilities.topk(min(40, support))
            settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "support": support}
            yield {"prompt": prompt, "ids": ids, **settings, "top": [list(pair) for pair in zip(best.indices.tolist(), best.values.tolist())]}


def chat_rows(tokenizer):
    for number, messages in enumerate(CHATS):
        for generation in [True, False]:
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
            ids = tokenizer(rendered, add_special_tokens=False).input_ids
            name = f"chat{number}/{'gen' if generation else 'nogen'}"
            yield {"id": name, "messages": messages, "add_generation_prompt": generation, "rendered": rendered, "ids": ids}


def own_greedy(tokenizer, generated):
    """Continuations that greedy decoding makes, so that `is_greedy` is sometimes true."""
    groups = []
    for number, row in enumerate(r for r in generated if r["ignore_eos"]):
        if number % 4 == 0:
            texts = [decode(tokenizer, row["output_ids"][:n]) for n in [1, 4, 12]]
            groups.append((f"own-greedy-{number}", row["prompt"], [text for text in texts if text]))
    return groups


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    texts = corpus()
    make_model(texts)
    tokenizer = AutoTokenizer.from_pretrained(OUT)
    model = AutoModelForCausalLM.from_pretrained(OUT, dtype=torch.float32, attn_implementation="eager").eval()
    golden = OUT / "golden"
    golden.mkdir(exist_ok=True)
    stream = tokenizer("\n\n".join(texts[:40]), add_special_tokens=False).input_ids
    logits_files(model, stream)
    generated = list(generate_rows(model, tokenizer))
    long = ("too-long", "\n\n".join(texts[:8]), ["\n\n質問", "白"])
    pairs = list(loglikelihood_rows(model, tokenizer, [*GROUPS, long, *own_greedy(tokenizer, generated)]))
    files = {
        "tokenize": list(tokenize_rows(tokenizer, TEXTS + texts[::12])),
        "loglikelihood": pairs,
        "generate": generated,
        "stop": list(stop_rows(generated)),
        "sampling": list(sampling_rows(model, tokenizer)),
        "chat": list(chat_rows(tokenizer)),
    }
    for name, rows in files.items():
        goldens.write_jsonl(golden / f"{name}.jsonl", rows)
    goldens.write_json(golden / "summary.json", summary(model, files))


def summary(model, files):
    pairs, generated = files["loglikelihood"], files["generate"]
    return {
        "n": {name: len(rows) for name, rows in files.items() if name != "tokenize"},
        "metrics": {
            "is_greedy_true": sum(row["is_greedy"] for row in pairs),
            "sum_logprob": sum(row["logprob"] for row in pairs),
            "min_top2_gap_generate": min(row["min_top2_gap"] for row in generated),
            "min_top2_gap_loglikelihood": min(row["min_top2_gap"] for row in pairs),
            "generate_finish_eos": sum(row["finish"] == "eos" for row in generated),
            "disagreements_with_transformers_generate": disagreements(model, generated),
        },
        "settings": {
            "dtype": "float32",
            "attn_implementation": "eager",
            "device": "cpu",
            "rope_inv_freq": model.model.rotary_emb.inv_freq.tolist(),
            "max_length": CONTEXT,
            "empty_context_prefix_token": demo.EOS,
        },
        "produced_with": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
    }


if __name__ == "__main__":
    main()
