"""The last stage of the language model: text that follows a picture, so that the base can attend to a visual prefix.

`python -m data_recipes.demo_base.image_prefix --work FOLDER --part early` trains the whole language model on
training-split captions and conversations that are led by 64 vectors: patch features of the frozen, half-trained tower
through a projector. `--part images` goes on with the finished tower. Each part draws its own projector, trains it along
and throws it away. Each step also has a row of plain text, so that the model keeps its language. Writes
`FOLDER/language_model_early` and `FOLDER/language_model_images` (fp32).

Shape suffixes: B rows, T tokens, P patches, V tower width, D model width.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase

from data_recipes.demo_base.items import Item, all_pixels, read_items
from data_recipes.demo_base.language_model import (
    Stage,
    held_out_perplexities,
    learning_rate,
    optimizer_for,
    text_rows,
    token_stream,
)
from data_recipes.demo_base.text import conversation, hold_out, read_documents
from data_recipes.demo_base.vision_tower import augment, normalise

IMAGE_ROWS = 12
TEXT_ROWS = 1
CAPTION_SHARE = 0.25
NUM_VARIANTS = 2


@dataclass(frozen=True)
class Part:
    """A stage of the language model, the tower whose features it reads, and the weight of the plain text's loss."""

    stage: Stage
    tower: str
    text_weight: float


PARTS = {
    "early": Part(
        Stage(steps=750, peak=1e-3, final=7.75e-4, conversation_share=1.0, start="mixed", seed=4),
        tower="vision_tower_early",
        text_weight=0.2,
    ),
    "images": Part(
        Stage(steps=700, peak=8e-4, final=2e-5, conversation_share=1.0, start="early", seed=5),
        tower="vision_tower",
        text_weight=0.5,
    ),
}


@dataclass(frozen=True)
class Row:
    """One tokenised text with `<image>` at `place`; labels are -100 where nothing is to be learnt."""

    input_ids: list[int]
    labels: list[int]
    place: int
    item: int


class Projector(nn.Module):
    """LLaVA-1.5's two-layer GELU projector (Liu et al. 2023b); its output starts at the size of word embeddings."""

    def __init__(self, tower_width: int, model_width: int, embedding_std: float) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(tower_width, model_width)
        self.linear_2 = nn.Linear(model_width, model_width)
        nn.init.normal_(self.linear_2.weight, std=embedding_std / 8)
        nn.init.zeros_(self.linear_2.bias)

    def forward(self, features_BPV: torch.Tensor) -> torch.Tensor:
        return self.linear_2(functional.gelu(self.linear_1(features_BPV)))


@torch.inference_mode()
def tower_features(tower: CLIPVisionModel, items: list[Item], num_variants: int) -> torch.Tensor:
    """hidden_states[-2] of the patches, float16 [I, variants, P, V]; variant 0 is the picture as it is."""
    pixels = torch.from_numpy(all_pixels(items, tower.config.image_size))
    features = torch.empty(len(items), num_variants, 64, tower.config.hidden_size, dtype=torch.float16)
    for variant in range(num_variants):
        for start in range(0, len(items), 64):
            part = pixels[start : start + 64]
            with torch.autocast("cpu", torch.bfloat16):
                out = tower(augment(part) if variant else normalise(part), output_hidden_states=True)
            features[start : start + 64, variant] = out.hidden_states[-2][:, 1:].half()
    return features


def tokenise(text: str, item: int, tokenizer: PreTrainedTokenizerBase) -> Row:
    """Supervised are the answers with their `</s>`, or in a caption row everything after the picture."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    place = ids.index(tokenizer.convert_tokens_to_ids("<image>"))
    spans = [match.span(1) for match in re.finditer(r"ASSISTANT:(.*?</s>)", text, re.DOTALL)]
    spans = spans or [(len("<image>"), len(text))]
    labels = [-100] * len(ids)
    for n, (start, end) in enumerate(encoded["offset_mapping"]):
        if n > 0 and any(first <= start < last and end <= last for first, last in spans):
            labels[n] = ids[n]
    return Row(ids, labels, place, item)


def image_row(items: list[Item], tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> Row:
    """A random training item as a caption row (LLaVA's `plain` form) or as a conversation."""
    number = rng.randrange(len(items))
    item = items[number]
    assert item.split == "train"
    is_caption = rng.random() < CAPTION_SHARE
    text = f"<image>{item.caption}\n" if is_caption else conversation(item, "<image>\n", rng)
    return tokenise(text, number, tokenizer)


def batch_loss(
    model: LlamaForCausalLM, prefix_BPD: torch.Tensor, rows: list[Row]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token-mean loss on the supervised tokens; also their logits' argmax being right, and their rows' numbers.

    Rows are padded on the right: attention is causal, so the padding needs no mask.
    """
    num_patches = prefix_BPD.shape[1]
    length = -(-(max(len(row.input_ids) for row in rows) - 1 + num_patches) // 32) * 32
    labels = torch.full((len(rows), length), -100)
    embed = model.get_input_embeddings()
    embedded = []
    for n, row in enumerate(rows):
        ids = torch.tensor(row.input_ids + [0] * (length + 1 - num_patches - len(row.input_ids)))
        ids[row.place] = 0
        words = embed(ids)
        embedded.append(torch.cat([words[: row.place], prefix_BPD[n].to(words.dtype), words[row.place + 1 :]]))
        after = torch.tensor(row.labels[row.place + 1 :])
        labels[n, row.place + num_patches : row.place + num_patches + len(after)] = after
    hidden = model.model(inputs_embeds=torch.stack(embedded), use_cache=False).last_hidden_state
    supervised = labels[:, 1:] != -100
    logits = model.lm_head(hidden[:, :-1][supervised]).float()
    target = labels[:, 1:][supervised]
    return functional.cross_entropy(logits, target), logits.argmax(-1) == target, supervised.nonzero()[:, 0]


def train_with_images(name: str, work: Path) -> None:
    """One part, whole; saves every 250 steps and at the end."""
    part = PARTS[name]
    stage = part.stage
    began = time.monotonic()
    torch.manual_seed(stage.seed)
    rng = random.Random(stage.seed)
    tokenizer = AutoTokenizer.from_pretrained(work / "tokenizer")
    model = LlamaForCausalLM.from_pretrained(work / f"language_model_{stage.start}", dtype=torch.float32)
    documents, _ = hold_out(read_documents(work))
    rng.shuffle(documents)
    text = text_rows(token_stream(documents, tokenizer), stage.seed)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    items = read_items("train")
    tower = CLIPVisionModel.from_pretrained(work / part.tower, dtype=torch.float32).eval()
    features = tower_features(tower, items, NUM_VARIANTS)
    features = features / features[:, 0].float().std()
    optimizer = optimizer_for(model)
    embedding_std = model.get_input_embeddings().weight.std().item()
    projector = Projector(features.shape[-1], model.config.hidden_size, embedding_std)
    projector_optimizer = torch.optim.AdamW(projector.parameters(), lr=2e-3, betas=(0.9, 0.98), weight_decay=0)
    recent = []
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        rows = [image_row(items, tokenizer, rng) for _ in range(IMAGE_ROWS)]
        chosen = features[[row.item for row in rows], [rng.randrange(NUM_VARIANTS) for _ in rows]]
        plain = torch.from_numpy(np.stack([next(text) for _ in range(TEXT_ROWS)]))
        with torch.autocast("cpu", torch.bfloat16):
            loss, _, _ = batch_loss(model, projector(chosen.float()), rows)
            text_loss = model(input_ids=plain, labels=plain, use_cache=False).loss
        (loss + part.text_weight * text_loss).backward()
        torch.nn.utils.clip_grad_norm_([*model.parameters(), *projector.parameters()], 1.0)
        for one in (optimizer, projector_optimizer):
            one.step()
            one.zero_grad(set_to_none=True)
        recent.append((loss.item(), text_loss.item()))
        if (step + 1) % 50 == 0:
            shown = np.mean(recent[-50:], axis=0)
            print(f"{step + 1} image {shown[0]:.3f} text {shown[1]:.3f} {time.monotonic() - began:.0f} s", flush=True)
        if (step + 1) % 250 == 0:
            model.save_pretrained(work / f"language_model_{name}")
    model.save_pretrained(work / f"language_model_{name}")
    figures = {"stage": name, "steps": stage.steps, "seconds": round(time.monotonic() - began)}
    figures["perplexity"] = held_out_perplexities(model, AutoTokenizer.from_pretrained(work / "tokenizer"), work)
    with (work / "figures.jsonl").open("a") as file:
        file.write(json.dumps(figures) + "\n")
    print(figures, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", choices=list(PARTS), required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_with_images(arguments.part, arguments.work)


if __name__ == "__main__":
    main()
