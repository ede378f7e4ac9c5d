"""One setting says for how long any group waits, DeepSpeed's own among them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.distributed.conftest import free_port

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Every group that torch knows of is asked, by private names: a release that renames them fails here.
RANKS = """
import os, sys
import deepspeed, torch
from torch.distributed import distributed_c10d
from llava_moe.runs.processes import training_together, answering_together
from llava_moe.run_config import ParallelConfig
from llava_moe.train.deepspeed_engine import DeepSpeedEngine, ZeroSettings
from llava_moe.model import ParameterGroup
from llava_moe.train.optimizer import OptimizerSettings
from torch import nn

def seconds():
    groups = distributed_c10d._world.pg_map
    return sorted(group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups)

def tell(how):
    # In one piece: both ranks write here.
    os.write(1, (f"{how} {seconds()}" + os.linesep).encode())

def rank_of(rank, port, how):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if how == "eval":
        with answering_together():
            tell(how)
        return
    parallel = ParallelConfig("ddp" if how == "ddp" else "deepspeed", timeout_seconds=1234.0)
    with training_together(parallel) as processes:
        if how != "ddp":
            module = nn.Linear(8, 8)
            group = ParameterGroup("adapter", 1e-3, dict(module.named_parameters()))
            zero = ZeroSettings(int(how[-1]))
            DeepSpeedEngine(module, [group], OptimizerSettings(), zero, processes.device, torch.float32)
        tell(how)

for number, how in enumerate(sys.argv[2:]):
    ranks = []
    for rank in range(2):
        ranks.append(os.fork())
        if not ranks[-1]:
            rank_of(rank, int(sys.argv[1]) + number, how)
            os._exit(0)
    print("statuses", *[os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks], flush=True)
"""


def test_every_group_waits_as_long_as_the_setting_says() -> None:
    engines = ("ddp", "zero2", "zero3", "eval")
    words = [sys.executable, "-c", RANKS, str(free_port()), *engines]
    told = os.environ | {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "error", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, env=told, capture_output=True, text=True, timeout=240)
    assert ended.stdout.count("statuses 0 0") == len(engines), ended.stdout + ended.stderr[-3000:]
    for how in engines:
        lines = [line for line in ended.stdout.splitlines() if line.startswith(f"{how} ")]
        expected, least = ("86400.0", 1) if how == "eval" else ("1234.0", 2 if how == "ddp" else 3)
        assert len(lines) == 2, ended.stdout
        for line in lines:
            found = line.removeprefix(how).strip(" []").split(", ")
            assert set(found) == {expected} and len(found) >= least, lines
