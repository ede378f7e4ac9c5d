"""Seconds of a step of the demo on two gloo ranks, by engine.

python -m tests.distributed.step_times
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.distributed.conftest import free_port
from tests.forked_commands import CommandServer

WORDS = [
    *("train", "exp=mix_general_doc_med", "scale=demo", "adapter=llava_mole", "data.num_workers=0"),
    *("train.num_threads=1", "train.max_steps=14", "train.save_every=0", "train.global_batch_size=8"),
    "eval.benchmarks=[]",
]
ENGINES = {"ddp": [], "zero1": ["parallel.stage=1"], "zero2": [], "zero3": []}
NUM_WARM_UP = 2


def main(rounds: int = 2) -> None:
    """Print the median of each engine, in turns."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp())
    servers = [CommandServer("deepspeed", DS_ACCELERATOR="cpu", DEEPSPEED_LOG_LEVEL="error") for _ in range(2)]
    for number in range(rounds):
        for name, more in ENGINES.items():
            run = folder / f"{name}-{number}"
            words = [*WORDS, f"parallel={name if name != 'zero1' else 'zero2'}", *more, f"out={run}"]
            meeting = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
            meeting["MASTER_PORT"] = str(free_port())
            own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in (0, 1)]
            ranks = [
                servers[rank].start(words, folder, os.environ | meeting | own[rank], joined=True) for rank in (0, 1)
            ]
            for rank in ranks:
                if rank.wait(timeout=600):
                    raise SystemExit(rank.output)
            lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
            median = statistics.median(line["seconds"] for line in lines[NUM_WARM_UP:])
            sys.stdout.write(f"{name}: {median:.3f} s a step\n")


if __name__ == "__main__":
    main()
