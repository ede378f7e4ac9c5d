"""A base is read from its files by mapping them: processes of one machine share the pages, and none has a copy."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_moe.adapters import LlavaMole
from llava_moe.assemble import new_model
from llava_moe.model import TrainableParts, prepare_stage
from llava_moe.train.engine import LocalEngine
from llava_moe.train.optimizer import OptimizerSettings
from tests.assemble.conftest import model_spec

MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) .* (/.*\.safetensors)$")


def mapped_shards() -> list[tuple[int, int, int]]:
    """Where safetensors files are mapped into this process: first and last address, and bytes that it has copies of."""
    found: list[tuple[int, int, int]] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if match := MAPPING.match(line):
            found.append((int(match[1], 16), int(match[2], 16), 0))
            inside = True
        elif re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
            inside = False
        elif inside and line.startswith("Anonymous:"):
            found[-1] = (*found[-1][:2], int(line.split()[1]) << 10)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of a process's memory")
def test_frozen_weights_stay_the_mapped_pages_of_their_files_through_training(architectures: dict[str, Any]) -> None:
    assembled = new_model(
        model_spec(architectures["checkpoint"], LlavaMole(num_experts=2, r=2), "fp32"), torch.device("cpu")
    )
    model: Any = assembled.model
    parts = TrainableParts({"adapter": 1e-2})
    groups = prepare_stage(model, parts, assembled.attached.trainable_parameters(), assembled.base.family)
    engine = LocalEngine(model.train(), groups, OptimizerSettings(), torch.device("cpu"))
    engine.backward(engine.forward(input_ids=torch.arange(1, 9)[None], use_cache=False).logits.square().mean(), True)
    assert engine.step([1e-2]) > 0
    shards = mapped_shards()
    frozen = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    outside = {
        name for name, one in frozen.items() if not any(start <= one.data_ptr() < end for start, end, _ in shards)
    }
    assert shards and len(frozen) > 20 and not outside
    assert sum(copied for *_, copied in shards) == 0
