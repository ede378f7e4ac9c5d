"""Linear probes of the tower: what can be read from its patch features, by question, beside two others.

`python -m tools.demo_assets.base.probe --work FOLDER [--tower FOLDER]` fits a ridge classifier for each closed
question on the training split and scores it on the validation split, from the mean patch and the 4 x 4 grid of patch
means, for the shipped tower, an untrained one of the same shape, and the EfficientNet-Lite0 teacher. Prints a Markdown
table by domain and kind.
"""

from __future__ import annotations

import argparse
import collections
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import CLIPVisionModel

from tools.demo_assets.base.export import BASE_FOLDER
from tools.demo_assets.base.features import tower_features
from tools.demo_assets.base.items import Item
from tools.demo_assets.base.teacher import taught_items
from tools.demo_assets.base.vision_tower import CONFIG, initialize

LEAST_TRAIN = 30
LEAST_VAL = 5


def pooled_features(tower: CLIPVisionModel, items: list[Item]) -> torch.Tensor:
    """Mean patch and 4 x 4 grid of means of hidden_states[-2], float32 [I, 17 * width]."""
    patches = tower_features(tower, items).float()
    grid = patches.unflatten(1, (4, 2, 4, 2)).mean((2, 4)).flatten(1)
    return torch.cat([patches.mean(1), grid], 1)


def asked(items: list[Item]) -> dict[tuple[str, str, str], list[tuple[int, str]]]:
    """(domain, kind, question) to the items and answers, for closed questions."""
    found: dict[tuple[str, str, str], list[tuple[int, str]]] = collections.defaultdict(list)
    for number, item in enumerate(items):
        for question, answer, kind, closed in zip(item.questions, item.answers, item.kinds, item.closed, strict=True):
            if closed:
                found[item.domain, kind, question].append((number, answer))
    return found


def ridge_predictions(train: torch.Tensor, labels: torch.Tensor, val: torch.Tensor) -> torch.Tensor:
    """Ridge regression on one-hot labels in its dual form, features standardised, penalty 0.3 a feature."""
    mean, std = train.mean(0), train.std(0) + 1e-4
    train, val = (train - mean) / std, (val - mean) / std
    one_hot = functional.one_hot(labels).float()
    prior = one_hot.mean(0)
    kernel = train @ train.T + 0.3 * train.shape[1] * torch.eye(len(train))
    return (val @ (train.T @ torch.linalg.solve(kernel, one_hot - prior)) + prior).argmax(1)


def probe(
    items: tuple[list[Item], list[Item]], features: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> dict[tuple[str, str], collections.Counter[str]]:
    """Right answers on val by (domain, kind) for each feature set (train, val), with `n` and `majority`."""
    train, val = asked(items[0]), asked(items[1])
    result: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for key in sorted(train.keys() & val.keys()):
        if len(train[key]) < LEAST_TRAIN or len(val[key]) < LEAST_VAL:
            continue
        names = sorted({answer for _, answer in train[key]})
        labels = torch.tensor([names.index(answer) for _, answer in train[key]])
        truth = torch.tensor([names.index(answer) if answer in names else -1 for _, answer in val[key]])
        row = result[key[:2]]
        row.update(n=len(truth), majority=int((truth == labels.bincount().argmax()).sum()))
        for name, (from_train, from_val) in features.items():
            part = from_train[[number for number, _ in train[key]]], from_val[[number for number, _ in val[key]]]
            row[name] += int((ridge_predictions(part[0], labels, part[1]) == truth).sum())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tower", type=Path, default=BASE_FOLDER / "vision_tower")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    (train, train_rows), (val, val_rows) = (taught_items(arguments.work, split) for split in ("train", "val"))
    items = train, val
    random_tower = CLIPVisionModel(CONFIG).eval()
    initialize(random_tower)
    towers = {
        "tower": CLIPVisionModel.from_pretrained(arguments.tower, dtype=torch.float32).eval(),
        "untrained": random_tower,
    }
    features = {name: tuple(pooled_features(tower, part) for part in items) for name, tower in towers.items()}
    features["teacher"] = tuple(
        torch.from_numpy(np.load(arguments.work / f"teacher_{split}.npy")[rows]).float()
        for split, rows in (("train", train_rows), ("val", val_rows))
    )
    table = probe(items, features)
    print("| domain | kind | n | majority | tower | untrained | teacher |\n|---|---|---|---|---|---|---|")
    for domain in ("general", "documents", "medical"):
        rows = [(kind, counts) for (where, kind), counts in sorted(table.items()) if where == domain]
        whole: collections.Counter[str] = sum((counts for _, counts in rows), collections.Counter())
        for kind, counts in [*rows, ("all", whole)]:
            shares = (
                f"{100 * counts[name] / counts['n']:.1f}" for name in ("majority", "tower", "untrained", "teacher")
            )
            print(f"| {domain} | {kind} | {counts['n']} | {' | '.join(shares)} |")


if __name__ == "__main__":
    main()
