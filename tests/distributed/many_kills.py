"""Kill a training at many random instants, steps and checkpoints among them, and hold its end against one never killed.

    python -m tests.distributed.many_kills 1 100      # processes, kills
    python -m tests.distributed.many_kills 2 40

A checkpoint is written at every step. Each life is killed up to 0.12 s behind its first new step, all ranks at once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.distributed.conftest import free_port
from tests.forked_commands import CommandServer, ForkedCommand

WORDS = [
    *("train", "exp=mix_general", "scale=demo", "model=tiny", "adapter=llava_mole", "data.num_workers=0"),
    *("train.num_threads=1", "train.save_every=1", "train.global_batch_size=4", "train.tokens_per_micro_batch=256"),
    *("train.max_length=256", "eval.benchmarks=[]"),
]


def start(servers: list[CommandServer], world: int, words: list[str], folder: Path) -> list[ForkedCommand]:
    """The ranks of one life."""
    meeting: dict[str, str] = {}
    if world > 1:
        meeting = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
        meeting["MASTER_PORT"] = str(free_port())
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {} for rank in range(world)]
    return [
        servers[rank % 2].start(words, folder, os.environ | meeting | own[rank], joined=True) for rank in range(world)
    ]


def num_steps(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def end(ranks: list[ForkedCommand]) -> None:
    for rank in ranks:
        if rank.wait(timeout=900):
            raise SystemExit(rank.output)


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Weights, optimizer and random numbers of the last checkpoint."""
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    paths = sorted(checkpoint.rglob("*.safetensors"))
    return {f"{path.name} {name}": one for path in paths for name, one in load_file(path).items()}


def main(world: int, num_kills: int) -> None:
    """Print how the killed run ended beside the whole one; status 1 where they differ."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder, instants = Path(tempfile.mkdtemp()), random.Random(0)
    servers = [CommandServer(), CommandServer()]
    words = [*WORDS, f"train.max_steps={4 * num_kills}", *(["parallel=ddp"] if world > 1 else [])]
    whole, killed = folder / "whole", folder / "killed"
    end(start(servers, world, [*words, f"out={whole}"], folder))
    for _ in range(num_kills):
        before, ranks = num_steps(killed), start(servers, world, [*words, f"out={killed}"], folder)
        while num_steps(killed) <= before:
            if any(rank.poll() is not None for rank in ranks):
                raise SystemExit(ranks[0].output)
            time.sleep(0.005)
        time.sleep(0.12 * instants.random())
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
        for rank in ranks:
            rank.wait(timeout=60)
    sys.stdout.write(f"{num_kills} kills of {world} process(es), the last behind step {num_steps(killed)}\n")
    end(start(servers, world, [*words, f"out={killed}"], folder))
    lines = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, killed)]
    steps = [[(line["step"], line["sample_hash"], line["loss"]) for line in one] for one in lines]
    left, right = state_of(whole), state_of(killed)
    is_equal = steps[0] == steps[1] and left.keys() == right.keys()
    is_equal = is_equal and all(torch.equal(left[name], right[name]) for name in left)
    sys.stdout.write(f"losses, sample hashes and {len(left)} tensors {'equal bit for bit' if is_equal else 'DIFFER'}\n")
    sys.exit(not is_equal)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
