"""How long a checkpoint keeps the training waiting: ``python -m tests.peers.checkpoint_stall [WORD ...]``.

The demo's whole language model trains, whose masters and moments are 130 MB; words may say otherwise. Each way is one
run of 24 steps with a checkpoint every sixth, of which the first is left out.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from llava_moe.cli import run
from llava_moe.runs.run_recorder import StageRun

WORDS = (
    *("train", "exp=mix_general_doc_med", "scale=demo", "adapter=none", "train.max_steps=24", "train.save_every=6"),
    *("train.num_threads=1", "data.num_workers=0", "eval.benchmarks=[]"),
)


def seconds_of(words: list[str], folder: Path) -> tuple[list[float], float]:
    """Seconds that each call to save kept the training, and the median step."""
    taken: list[float] = []
    save = StageRun.save

    def timed(self: StageRun, *rest: Any) -> None:
        began = time.perf_counter()
        save(self, *rest)
        taken.append(time.perf_counter() - began)

    with patch.object(StageRun, "save", timed):
        assert run([*words, f"out={folder}"]) == 0
    steps = [json.loads(line)["seconds"] for line in (folder / "log.jsonl").read_text().splitlines()]
    return taken, statistics.median(steps)


def main() -> None:
    with TemporaryDirectory() as place:
        for turn in range(2):
            for way in ("true", "false"):
                words = [*WORDS, *sys.argv[1:], f"train.async_save={way}"]
                # The last one waits in any case: a run ends with a checkpoint that stands.
                taken, step = seconds_of(words, Path(place) / f"{way}{turn}")
                told = ", ".join(f"{1000 * one:.0f}" for one in taken[1:-1])
                sys.stdout.write(f"async_save={way}: a step {1000 * step:.0f} ms, checkpoints {told} ms\n")


if __name__ == "__main__":
    main()
