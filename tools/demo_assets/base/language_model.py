"""Pretraining of the demo's language model, a small Llama, in stages that each end by steps.

`python -m tools.demo_assets.base.language_model --work FOLDER --stage text` reads WordNet and the Bible;
`--stage mixed` goes on, half of it training-split conversations and captions as text. It never meets a picture.
A stage starts from the checkpoint that the stage before it left; see README.md for the order and image_prefix.py for
the stage that follows. Writes `FOLDER/language_model_<stage>` (fp32) and a line of figures to `FOLDER/figures.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tools.demo_assets.base.items import IMAGE_FOLDER, Item, read_items
from tools.demo_assets.base.text import conversation, hold_out, read_documents

CONFIG = LlamaConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)
ROW_LENGTH = 256
ROWS_PER_STEP = 12
CAPTION_SHARE = 0.2
"""Of the rows about items: the caption alone."""
TOLD_SHARE = 0.4
"""Of the rows about items: the questions behind the caption, so that answers can be read off a text."""


@dataclass(frozen=True)
class Stage:
    """What a stage reads and how its learning rate goes: warm-up, then linearly from `peak` to `final`."""

    steps: int
    peak: float
    final: float
    conversation_share: float
    start: str | None
    seed: int


STAGES = {
    "text": Stage(steps=500, peak=2e-3, final=1.58e-3, conversation_share=0.0, start=None, seed=1),
    "mixed": Stage(steps=700, peak=1.5e-3, final=1e-4, conversation_share=0.5, start="text", seed=2),
}


def learning_rate(stage: Stage, step: int, warm_up: int = 100) -> float:
    """Linear warm-up over `warm_up` steps times a linear decay from `peak` to `final`."""
    share = step / stage.steps
    return min(1.0, (step + 1) / warm_up) * (stage.peak + share * (stage.final - stage.peak))


def optimizer_for(model: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95) with weight decay 0.05 on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95))


def token_stream(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """All documents, each led by `<s>`, as one int64 array."""
    pieces: list[int] = []
    for start in range(0, len(documents), 4096):
        for ids in tokenizer(documents[start : start + 4096], verbose=False)["input_ids"]:
            pieces += ids
    return np.asarray(pieces, dtype=np.int64)


def text_rows(stream: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Rows of ROW_LENGTH tokens of a stream, in a new random order each epoch, for ever."""
    num_rows = len(stream) // ROW_LENGTH
    rows = stream[: num_rows * ROW_LENGTH].reshape(num_rows, ROW_LENGTH)
    generator = np.random.default_rng(seed)
    while True:
        yield from rows[generator.permutation(num_rows)]


def conversation_rows(items: list[Item], tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[np.ndarray]:
    """Rows filled with conversations about random items, forever: no picture, in part the caption in its place."""
    assert all(item.split == "train" for item in items)
    rng = random.Random(seed)
    buffer: list[int] = []
    while True:
        while len(buffer) < ROW_LENGTH:
            item = rng.choice(items)
            draw = rng.random()
            if draw < CAPTION_SHARE:
                text = item.caption + "\n"
            else:
                is_told = draw > 1 - TOLD_SHARE
                text = conversation(item, item.caption + "\n" if is_told else "", rng)
            buffer += tokenizer(text)["input_ids"]
        yield np.asarray(buffer[:ROW_LENGTH], dtype=np.int64)
        buffer = buffer[ROW_LENGTH:]


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, stream: np.ndarray, num_rows: int = 96) -> float:
    """exp of the mean next-token loss over the first rows of a held-out stream."""
    rows = torch.from_numpy(stream[: len(stream) // ROW_LENGTH * ROW_LENGTH].reshape(-1, ROW_LENGTH)[:num_rows])
    losses = [model(input_ids=part, labels=part, use_cache=False).loss.item() * len(part) for part in rows.split(8)]
    return math.exp(sum(losses) / len(rows))


def held_out_perplexities(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, work: Path) -> dict[str, float]:
    """Perplexity on documents held out from the clean text and on validation conversations without pictures."""
    model.eval()
    _, held = hold_out(read_documents(work))
    entries = [text for text in held if len(text) < 1500]
    chapters = [text for text in held if len(text) >= 1500]
    figures = {"wordnet": entries, "bible": chapters}
    if IMAGE_FOLDER.joinpath("general.parquet").exists():
        rng = random.Random(0)
        figures["val_conversations"] = [conversation(item, "", rng) for item in read_items("val")]
    result = {name: perplexity(model, token_stream(texts, tokenizer)) for name, texts in figures.items()}
    model.train()
    return result


def train_stage(name: str, work: Path) -> None:
    """Run one stage, saving every 500 steps and at the end."""
    stage = STAGES[name]
    torch.manual_seed(stage.seed)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    if stage.start is None:
        model = LlamaForCausalLM(CONFIG)
    else:
        model = LlamaForCausalLM.from_pretrained(work / f"language_model_{stage.start}", dtype=torch.float32)
    documents, _ = hold_out(read_documents(work))
    random.Random(stage.seed).shuffle(documents)
    text = text_rows(token_stream(documents, tokenizer), stage.seed)
    talk = conversation_rows(read_items("train"), tokenizer, stage.seed) if stage.conversation_share else None
    num_talk = round(ROWS_PER_STEP * stage.conversation_share)
    optimizer = optimizer_for(model)
    folder = work / f"language_model_{name}"
    began, recent = time.monotonic(), []
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        rows = [next(text) for _ in range(ROWS_PER_STEP - num_talk)] + [next(talk) for _ in range(num_talk) if talk]
        input_ids = torch.from_numpy(np.stack(rows))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=input_ids, labels=input_ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            print(name, step + 1, f"loss {np.mean(recent[-50:]):.3f}", f"{time.monotonic() - began:.0f} s", flush=True)
        if (step + 1) % 500 == 0:
            model.save_pretrained(folder)
    model.save_pretrained(folder)
    seconds = time.monotonic() - began
    figures = {"stage": name, "steps": stage.steps, "tokens": stage.steps * ROWS_PER_STEP * ROW_LENGTH}
    figures |= {"seconds": round(seconds), "perplexity": held_out_perplexities(model, tokenizer, work)}
    with (work / "figures.jsonl").open("a") as file:
        file.write(json.dumps(figures) + "\n")
    print(figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=list(STAGES), required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_stage(arguments.stage, arguments.work)


if __name__ == "__main__":
    main()
