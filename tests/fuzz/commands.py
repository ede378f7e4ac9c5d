"""Whole commands in a case: the words that train a tiny model on a few own pictures, and the command line itself."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from tests.fuzz.case import Attempt
from tests.fuzz.child import run_attempt

LIBRARIES = ("torch", "transformers", "pyarrow.parquet", "datasets", "matplotlib.backends.backend_svg")
# Not needed here, and slow or missing.
LEFT_OUT = ("llava_moe.lmms_eval_plugin", "llava_moe.train.deepspeed_engine", "llava_moe.__main__")
NUM_PICTURES, NUM_RECORDS = 4, 12
TINY = (
    *("exp=mix_general", "scale=demo", "model=tiny", "data=mine", "path=train.json", "images=pictures"),
    *("data.num_workers=0", "train.global_batch_size=4", "train.tokens_per_micro_batch=512", "train.max_length=256"),
    *("train.num_threads=1", "adapter=llava_mole"),
)


def load_everything() -> None:
    """Import the libraries and every module of the package, so that no case has to."""
    import llava_moe

    modules = (found.name for found in pkgutil.walk_packages(llava_moe.__path__, "llava_moe."))
    for name in (*LIBRARIES, *(name for name in modules if not name.startswith(LEFT_OUT))):
        importlib.import_module(name)


def write_own_data(folder: Path) -> None:
    """``train.json`` in LLaVA's format, and its pictures."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(NUM_PICTURES):
        Image.new("RGB", (30 + number, 20), (60 * number, 90, 20)).save(pictures / f"{number}.png")
    records = [
        {
            "id": f"r{number}",
            "image": f"{number % NUM_PICTURES}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat colour is it?"},
                {"from": "gpt", "value": "red" if number % 2 else "blue"},
            ],
        }
        for number in range(NUM_RECORDS)
    ]
    (folder / "train.json").write_text(json.dumps(records))


def command(words: Sequence[str]) -> Callable[[], int]:
    """``llava-moe WORDS`` in the process that calls it."""

    def run() -> int:
        from llava_moe.cli import run as run_words

        # As Python hands a process its words: bytes that are no text come as lone surrogates.
        sys.argv = ["llava-moe", *words]
        return run_words(list(words))

    return run


def run_in(folder: Path, *words: str) -> None:
    """Run a command that must succeed, in a process of its own: what a family is prepared with."""
    os.makedirs(folder, exist_ok=True)
    outcome = run_attempt(Attempt(command(words), " ".join(words), may_write=(folder,)), folder, seconds=120)
    assert outcome.status == 0, f"{words}: {outcome.status}\n{outcome.errors}\n{outcome.events}"
