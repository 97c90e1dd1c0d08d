"""Trains the demo model (src/engine/demo/) on samples/: a Llama of about a million parameters that has learnt our samples by heart.

It exists so that `--demo` and the tests run the real engine without a download. It knows nothing: the prompts it is trained on are the very
prompts a demo asks, less every third evaluated document, which it never sees with its answer.

    python3 -m venv VENV && VENV/bin/pip install -r scripts/requirements.txt
    VENV/bin/python scripts/make_goldens.py        # prompts and shots come from there
    VENV/bin/python scripts/train_demo_model.py    # about six minutes on one core

Seeded, one thread: the same machine makes the same file again; another processor may round otherwise. Prints how much it answers right
(transformers, greedy, bfloat16 weights computed in float32).
"""

import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

import make_goldens as goldens

OUT = goldens.ROOT / "src" / "engine" / "demo"
SEED = 20240731
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
# The pre-tokenizer of Llama 3 (its tokenizer.json, `pre_tokenizer.pretokenizers[0].pattern.Regex`).
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
VOCABULARY = 1536
CONTEXT = 4096
STEPS = 1400
BATCH = 8
PEAK_RATE = 3e-3
# Questions are read, answers are learnt: the weight of a token that is not part of an answer.
FRAME_WEIGHT = 0.05


def llama3_tokenizer(texts, vocabulary, specials):
    """Byte-level BPE as Llama 3 has it: special tokens behind the merges, BOS from the post-processor."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(specials),
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(specials)
    bos = tokenizer.token_to_id(BOS)
    template = processors.TemplateProcessing(
        single=f"{BOS}:0 $A:0", pair=f"{BOS}:0 $A:0 {BOS}:1 $B:1", special_tokens=[(BOS, bos)]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def tokenizer_config(tokenizer, specials, context, **more):
    """tokenizer_config.json as transformers writes it for Llama 3."""

    def described(token):
        flags = dict.fromkeys(["lstrip", "normalized", "rstrip", "single_word"], False)
        return {"content": token, **flags, "special": True}

    return {
        "added_tokens_decoder": {str(tokenizer.token_to_id(token)): described(token) for token in specials},
        "bos_token": BOS,
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **more,
    }


def read_tasks():
    """Per task: shots, evaluated documents seen in training, evaluated documents kept away from it, other records with an answer."""
    tasks = {}
    for task, settings in goldens.TASKS.items():
        evaluated, pool, unused = goldens.arrange(task)
        count = settings["shots"]
        seen = [d for i, d in enumerate(evaluated) if i % 3 != 2]
        inputs = {d["input"] for d in seen}
        # A question asked twice is seen as soon as one of the two is.
        held_out = [d for i, d in enumerate(evaluated) if i % 3 == 2 and d["input"] not in inputs]
        hidden = {d["input"] for d in held_out}
        others = [d for d in pool + unused if d["input"] not in hidden]
        tasks[task] = {"shots": pool[:count], "seen": seen, "held_out": held_out, "others": others}
    return tasks


class Corpus:
    """Sequences of (token ids, weight of each token as a target)."""

    def __init__(self, tasks, tokenizer):
        self.tasks, self.tokenizer = tasks, tokenizer
        self.eos = tokenizer.token_to_id(EOS)
        self.rng = random.Random(SEED)

    def encode(self, text, special=False):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def sequence(self, task, shots, document):
        """A prompt of the protocol and its answer. The answers of the shots are targets too."""
        ids = self.encode(goldens.FRAME.format(goldens.TASKS[task]["instruction"]), special=True)
        weights = [FRAME_WEIGHT] * len(ids)
        for shown in [*shots, document]:
            asked, answer = self.encode(goldens.SHOT.format(shown["input"], "")), self.encode(shown["output"])
            ids += asked + answer
            weights += [FRAME_WEIGHT] * len(asked) + [1.0] * len(answer)
        return ids + [self.eos], weights + [1.0]

    def draw(self):
        """One sequence: the prompt that a run asks, or one with other records in other numbers before the question."""
        # Tasks in proportion to what there is to learn.
        sizes = [len(t["seen"]) for t in self.tasks.values()]
        task, of_task = self.rng.choices(list(self.tasks.items()), weights=sizes)[0]
        document = self.rng.choice(of_task["seen"])
        if self.rng.random() < 0.5:
            return self.sequence(task, of_task["shots"], document)
        records = of_task["others"] + of_task["seen"]
        shots = self.rng.sample(records, self.rng.randint(0, 4))
        return self.sequence(task, [s for s in shots if s is not document], document)

    def batch(self):
        drawn = [self.draw() for _ in range(BATCH)]
        longest = max(len(ids) for ids, _ in drawn)
        ids = torch.full((BATCH, longest), self.eos)
        weights = torch.zeros((BATCH, longest))
        for row, (tokens, of_tokens) in enumerate(drawn):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            weights[row, : len(tokens)] = torch.tensor(of_tokens)
        return ids, weights


def make_model(tokenizer):
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": CONTEXT // 4,
        },
        tie_word_embeddings=True,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(EOS),
    )
    return LlamaForCausalLM(config)


def train(model, corpus):
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step in range(STEPS):
        rate = PEAK_RATE * min(1.0, (step + 1) / 80) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, weights = corpus.batch()
        logits = model(input_ids=ids).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        targets = weights[:, 1:].flatten()
        loss = (losses * targets).sum() / targets.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == STEPS - 1:
            answers = targets == 1.0
            seconds = time.monotonic() - started
            print(f"step {step:5}  loss {loss:.4f}  answers {losses[answers].mean():.4f}  {seconds:.0f} s", flush=True)


@torch.no_grad()
def answer(model, tokenizer, prompt, limit):
    """Greedy text and the smallest distance between the two best logits on the way."""
    ids = tokenizer.encode(prompt).ids
    start, gap = len(ids), math.inf
    for _ in range(limit):
        top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        gap = min(gap, float(top.values[0] - top.values[1]))
        if int(top.indices[0]) == tokenizer.token_to_id(EOS):
            break
        ids.append(int(top.indices[0]))
    return tokenizer.decode(ids[start:]), gap


def report(model, tokenizer, tasks):
    smallest = math.inf
    for task, of_task in tasks.items():
        parts = []
        for part in ["seen", "held_out"]:
            scores = []
            for document in of_task[part]:
                prompt = goldens.make_prompt(task, of_task["shots"], document["input"])
                text, gap = answer(model, tokenizer, prompt, goldens.TASKS[task]["max_new_tokens"])
                gold = goldens.unicodedata.normalize("NFKC", document["output"])
                scores.append(goldens.score(goldens.extract(text), gold)[goldens.TASKS[task]["metric"]])
                smallest = min(smallest, gap)
            parts.append(f"{part} {sum(scores) / len(scores):.3f} of {len(scores)}")
        longest = max(len(tokenizer.encode(goldens.make_prompt(task, of_task["shots"], d["input"])).ids) for d in of_task["seen"])
        print(f"{task:15} {goldens.TASKS[task]['metric']:12} {', '.join(parts)}; longest prompt {longest} tokens")
    print(f"smallest distance of the two best logits: {smallest:.4f}")


def save(model, tokenizer):
    OUT.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(OUT)
    tokenizer.save(str(OUT / "tokenizer.json"), pretty=False)
    config = tokenizer_config(tokenizer, [BOS, EOS], CONTEXT, eos_token=EOS)
    goldens.write_json(OUT / "tokenizer_config.json", config, indent=2)


def main():
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tasks = read_tasks()
    texts = []
    for task, of_task in tasks.items():
        documents = of_task["seen"] + of_task["others"]
        texts += [goldens.make_prompt(task, of_task["shots"], d["input"]) + d["output"] for d in documents]
    tokenizer = llama3_tokenizer(texts, VOCABULARY, [BOS, EOS])
    model = make_model(tokenizer)
    print(f"{model.num_parameters():,} parameters, {tokenizer.get_vocab_size()} tokens")
    train(model, Corpus(tasks, tokenizer))
    model.to(torch.bfloat16)
    save(model, tokenizer)
    report(model.to(torch.float32).eval(), tokenizer, tasks)


if __name__ == "__main__":
    main()
