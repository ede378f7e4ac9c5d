"""How much the frozen language model reads from a picture through a fresh projector: exact match on validation.

`python -m data_recipes.demo_base.reading --work FOLDER --stage mixed` (or `images`) trains a new projector alone on
training-split captions and conversations, a few hundred steps, then answers the closed validation questions with the
right picture and with another picture that carries the same question. It tells what the image_prefix stage is worth;
nothing of it is kept.
"""

from __future__ import annotations

import argparse
import collections
import random
import time
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, CLIPVisionModel, LlamaForCausalLM, PreTrainedTokenizerBase

from data_recipes.demo_base.image_prefix import Projector, batch_loss, image_row, tokenise, tower_features
from data_recipes.demo_base.items import DOMAINS, Item, read_items

STEPS = 400
ROWS = 12
PEAK = 2e-3


def train_projector(
    model: LlamaForCausalLM, features: torch.Tensor, items: list[Item], tokenizer: PreTrainedTokenizerBase
) -> Projector:
    """A fresh projector, trained with everything else frozen; the learning rate falls linearly to nothing."""
    rng = random.Random(0)
    projector = Projector(
        features.shape[-1], model.config.hidden_size, model.get_input_embeddings().weight.std().item()
    )
    optimizer = torch.optim.AdamW(projector.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0)
    began, recent = time.monotonic(), []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = PEAK * min(1.0, (step + 1) / 20) * (1 - step / STEPS)
        rows = [image_row(items, tokenizer, rng) for _ in range(ROWS)]
        with torch.autocast("cpu", torch.bfloat16):
            prefix = projector(features[[row.item for row in rows], 0].float())
            loss, _, _ = batch_loss(model, prefix, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"{step + 1} loss {sum(recent[-50:]) / 50:.3f} {time.monotonic() - began:.0f} s", flush=True)
    return projector


def closed_questions(items: list[Item]) -> list[tuple[int, int, int]]:
    """(item, question number, another item asked the same question) for each closed question that has such another."""
    carriers: dict[str, list[int]] = collections.defaultdict(list)
    for number, item in enumerate(items):
        for question in set(item.questions):
            carriers[question].append(number)
    rng, found = random.Random(0), []
    for number, item in enumerate(items):
        for place, question in enumerate(item.questions):
            others = [other for other in carriers[question] if other != number]
            if item.closed[place] and others:
                found.append((number, place, rng.choice(others)))
    return found


@torch.inference_mode()
def right_answers(
    model: LlamaForCausalLM,
    projector: Projector,
    features: torch.Tensor,
    items: list[Item],
    tokenizer: PreTrainedTokenizerBase,
    questions: list[tuple[int, int, int]],
    other: bool,
) -> list[bool]:
    """Whether every answer token and `</s>` is the likeliest one under teacher forcing, which is greedy exact match."""
    right: list[bool] = []
    for start in range(0, len(questions), 32):
        rows, shown = [], []
        for number, place, another in questions[start : start + 32]:
            item = items[number]
            text = f"USER: <image>\n{item.questions[place]} ASSISTANT: {item.answers[place]}</s>"
            rows.append(tokenise(text, number, tokenizer))
            shown.append(another if other else number)
        with torch.autocast("cpu", torch.bfloat16):
            _, is_right, row_numbers = batch_loss(model, projector(features[shown, 0].float()), rows)
        wrong = set(row_numbers[~is_right].tolist())
        right += [n not in wrong for n in range(len(rows))]
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=("text", "mixed", "early", "images"), default="images")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(arguments.work / "tokenizer")
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    folder = arguments.work / f"language_model_{arguments.stage}"
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    tower = CLIPVisionModel.from_pretrained(arguments.work / "vision_tower", dtype=torch.float32).eval()
    train, val = read_items("train"), read_items("val")
    projector = train_projector(model, tower_features(tower, train, 1), train, tokenizer)
    features, questions = tower_features(tower, val, 1), closed_questions(val)
    scores = [right_answers(model, projector, features, val, tokenizer, questions, other) for other in (False, True)]
    table: dict[tuple[str, str], list[tuple[bool, bool]]] = collections.defaultdict(list)
    for (number, place, _), *pair in zip(questions, *scores, strict=True):
        for kind in ("all", val[number].kinds[place]):
            table[val[number].domain, kind].append((pair[0], pair[1]))
    print("| domain | kind | n | right picture | another picture |\n|---|---|---|---|---|")
    for domain in DOMAINS:
        for (where, kind), pairs in sorted(table.items()):
            if where == domain:
                right, another = (100 * sum(pair[n] for pair in pairs) / len(pairs) for n in (0, 1))
                print(f"| {domain} | {kind} | {len(pairs)} | {right:.1f} | {another:.1f} |")


if __name__ == "__main__":
    main()
