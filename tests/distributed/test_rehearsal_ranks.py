"""Rows that are tried on all ranks before step 1: they leave no trace, and what would hang in them is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.conftest import free_port
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
NOTHING_WHOLE = ("stage=3", "stage3_param_persistence_threshold=0")
DROPS = "adapter.lora_dropout=0.1"
ENGINES = {
    "ddp": ["parallel=ddp", DROPS],
    # Rows of text reach nothing that trains.
    "ddp, the projector alone": ["parallel=ddp", "stage=pretrain", "adapter=none", "data.max_bad_share=1"],
    "zero2": ["parallel=zero2", "train.dtype=bf16", DROPS],
    "zero3": ["parallel=zero3", DROPS, *(f"parallel.extra.zero_optimization.{one}" for one in NOTHING_WHOLE)],
}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_is_to_the_bit_what_it_is_without(
    engine: str,
    words_for_tiny: tuple[str, ...],
    start_ranks: Callable[..., list[ForkedCommand]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    told = ["train", *words_for_tiny, *ENGINES[engine], "train.max_steps=3"]
    for rehearses in ("true", "false"):
        ranks = start_ranks(2, [*told, f"train.rehearse={rehearses}", f"out={tmp_path / rehearses}"], tmp_path)
        statuses = [rank.wait(timeout=240) for rank in ranks]
        assert not any(statuses), [rank.output[-3000:] for rank in ranks]
    runs = [tmp_path / name for name in ("true", "false")]
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in runs]
    told_of = [[(one["loss"], one["grad_norm"], one.get("experts")) for one in log] for log in logs]
    assert told_of[0] == told_of[1] and len(told_of[0]) == 3
    first, second = (load_file(run / "checkpoints/step-000003/engine/optimizer.safetensors") for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


PROGRAM = """
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn

from llava_moe.errors import UserError
from llava_moe.train.deepspeed_engine import DeepSpeedEngine, ZeroSettings, start_processes
from llava_moe.train.heartbeats import Heartbeats
from llava_moe.train.optimizer import OptimizerSettings
from llava_moe.train.pulse import Pulse
from llava_moe.train.rehearsal import Scene, rehearse
from tests.tiny_training import OBJECTIVE, Bigram, group_of, rows_of

class SometimesSeeing(Bigram):
    # A tower that a rank enters where its row shows something: under ZeRO-3 the others must enter it, too.
    def __init__(self):
        super().__init__(torch.float32)
        self.tower = nn.Linear(4, 4)

    def forward(self, **inputs):
        if dist.get_rank() == 1:
            self.tower(torch.zeros(1, 4))
        return super().forward(**inputs)

start_processes()
rank, world, device = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
model = SometimesSeeing()
zero = ZeroSettings(3, extra={"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}})
engine = DeepSpeedEngine(model, [group_of(model)], OptimizerSettings(), zero, device, torch.float32)

def give_up(told):
    if told:
        print("told: " + told, flush=True)
    os._exit(1)

pulse = Pulse()
with Heartbeats("rehearsal", rank, world, 300.0, pulse, lambda *_: [], give_up), pulse.hurried(4 / 300):
    print("begins", flush=True)
    try:
        rehearse(engine, OBJECTIVE, [Scene("an image on process 1", rows_of([[0, 1]])[0])], pulse)
    except UserError as error:
        give_up(str(error))
"""


def test_a_module_that_one_rank_alone_enters_is_named(tmp_path: Path) -> None:
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = [rank.communicate(timeout=240)[0] for rank in ranks]
    # Gloo ends one of them, where the collectives of two modules meet; the other tells where it was.
    assert all(rank.returncode for rank in ranks) and 1 in [rank.returncode for rank in ranks]
    lines = [line for one in told for line in one.splitlines() if line.startswith("told: ")]
    assert len(lines) == 1 and "the rehearsal (an image on process 1), forwards into " in lines[0], told
