"""Small runs of two domains for the tests of ``analyze routing``: words, data, and what was trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

NUM_RECORDS = 40
QUESTIONS = {"squares": ("What colour is the square?", "red"), "charts": ("How many bars are shown?", "three bars")}


def write_domains(folder: Path, domains: Sequence[str] = tuple(QUESTIONS)) -> list[str]:
    """Two sources told apart by picture, question and answer; returns the words that name them."""
    generator, sources = np.random.default_rng(0), {}
    (folder / "data").mkdir(parents=True)
    for domain in domains:
        question, answer = QUESTIONS[domain]
        records = []
        for number in range(NUM_RECORDS):
            pixels = generator.integers(0, 120, (24, 24, 3)) + (0 if domain == "squares" else 120)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{domain}{number}.png")
            turns = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}]
            records.append({"id": f"{domain}{number}", "image": f"{domain}{number}.png", "conversations": turns})
        (folder / f"{domain}.json").write_text(json.dumps(records))
        path = str(folder / f"{domain}.json")
        sources[domain] = {"domain": domain, "format": "llava", "path": path, "images": str(folder)}
    named = {"root": "data", "max_bad_share": 0.01, "quarantine": None, "held_out": 0.3, "num_workers": 0}
    drawn = {"epoch_samples": None, "weights": "samples", "temperature": 1.0, "phases": None}
    (folder / "data" / "two.yaml").write_text(yaml.safe_dump(named | drawn | {"sources": sources}))
    return ["data=two", "--config-dir", str(folder)]


def words_for(tiny: Sequence[str], domains: Sequence[str]) -> list[str]:
    """The words of a tiny run, its data replaced."""
    own = ("data=", "path=", "images=", "data.num_workers=", "train.max_steps=")
    return [*(word for word in tiny if not word.startswith(own)), *domains, "train.max_steps=4"]
