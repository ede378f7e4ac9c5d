"""What tests of plans share: a model small enough to train and to trace, and rows for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.adapters import LlavaMole, NoAdapter
from llava_moe.assemble import ModelSpec
from llava_moe.data.template import Template
from llava_moe.model import FromShape, TrainableParts
from llava_moe.plan.dummy_rows import NullImage, StepSamples
from llava_moe.plan.max_row_length import RowTracer
from llava_moe.plan.steps import SourceSteps, Steps
from llava_moe.plan.trace import Blueprint
from llava_moe.runs.objective import objective_of
from llava_moe.train.optimizer import OptimizerSettings

VISION = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
          "image_size": 64, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 6, "max_position_embeddings": 2048, "tie_word_embeddings": False}  # fmt: skip
WITH_ADAPTER, WHOLE = {"adapter": 2e-4, "projector": 2e-5}, {"projector": 2e-5, "language_model": 2e-5}

MakeBlueprint = Callable[..., Blueprint]


@pytest.fixture
def blueprint(tokenizer_folder: Path) -> MakeBlueprint:
    """A stage of the small model."""

    def make(adapter: Any = None, dtype: str = "fp32", recomputes: bool = False, on_gpu: bool = False) -> Blueprint:
        adapter = LlavaMole(num_experts=3, r=8) if adapter is None else adapter
        shape = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
        model_spec = ModelSpec(shape, adapter, dtype, Template("v1", ""), "pad", max_length=2048, over_length="cut")
        rates = WHOLE if isinstance(adapter, NoAdapter) else WITH_ADAPTER
        return Blueprint(model_spec, TrainableParts(rates), OptimizerSettings(), objective_of, 3, recomputes, on_gpu)

    return make


@pytest.fixture
def bench(blueprint: MakeBlueprint) -> Callable[..., RowTracer]:
    """A bench over steps of sixteen samples with an image each (64 tokens) and 40 to 190 tokens of text."""

    def make(**settings: Any) -> RowTracer:
        generator = np.random.default_rng(0)
        lengths = [generator.integers(105, 255, 16).astype(np.int32) for _ in range(6)]
        images = [np.ones(16, np.int16) for _ in lengths]
        supervised = [(length // 8).astype(np.int32) for length in lengths]
        total = int(sum(length.sum() for length in lengths))
        source = SourceSteps("some", "some", 96, 96, total, int(sum(one.sum() for one in supervised)), False)
        picked = tuple(map(StepSamples, lengths, images, supervised))
        steps = Steps(6, 6, (source,), picked, max(map(max, lengths)))
        return RowTracer(blueprint(**settings), steps, entry_bytes=3 * 64**2, null_image=NullImage(64))

    return make
