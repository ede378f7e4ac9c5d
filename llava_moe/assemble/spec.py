"""What it takes to build a model, read from the configuration that a run was written with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import torch

from llava_moe.adapters import NoAdapter
from llava_moe.assemble.registered import ADAPTERS, ARCHITECTURES, from_target
from llava_moe.data.images.reading import ImageReading
from llava_moe.data.template import Template
from llava_moe.errors import UserError
from llava_moe.files.our_files import misfit
from llava_moe.files.regular_file import read_regular
from llava_moe.model import Architecture
from llava_moe.model.image_processor import ImageMode
from llava_moe.run_config import DataConfig, RunConfig
from llava_moe.text.structured_text import StructuredTextError, parse_yaml

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build a model and read data for it.

    Attributes:
        architecture: where the base comes from.
        adapter: the adapter's configuration (``NoAdapter()`` for none).
        dtype: ``fp32``, ``bf16`` or ``fp16`` of the base weights.
        template: prompt format.
        image_mode: ``pad`` (LLaVA-1.5 instruct), ``crop`` (pretrain), or ``resize`` (as SigLIP's own processor does).
        max_length, over_length: longest example in tokens after image expansion, and what happens to longer ones.
        init_from: run whose weights are the start.
        reading: what becomes of images' orientation, transparency and deep values.
    """

    architecture: Architecture
    adapter: Any
    dtype: str
    template: Template
    image_mode: ImageMode
    max_length: int
    over_length: Literal["cut", "drop"]
    attn_implementation: str = "auto"
    init_from: str | None = None
    seed: int = 0
    reading: ImageReading = ImageReading()  # noqa: RUF009


def dtype_of(name: str) -> torch.dtype:
    """The precision of that name.

    Raises:
        UserError: it is none of ``DTYPES``.
    """
    dtype = DTYPES.get(name)
    if dtype is None:
        raise UserError(f"train.dtype={name}: choose fp32, bf16 or fp16")
    return dtype


_MAYBE_TEXT = (str, NoneType)
SETTINGS = {
    "model": {"architecture": dict, "system": _MAYBE_TEXT, "attn_implementation": _MAYBE_TEXT},
    "adapter": (dict, NoneType),
    "stage": {"template": str, "image_mode": str, "learning_rates": dict},
    "train": {"dtype": str, "max_length": int, "over_length": str, "tokens_per_micro_batch": int},
    # Read where a training is looked at; a run of an earlier release may lack them.
    **dict.fromkeys(("log?", "eval?", "parallel?"), (dict, NoneType)),
    "data": {"sources": {str: {"domain": str, "path": _MAYBE_TEXT}}},
    "init_from": _MAYBE_TEXT,
    "seed": int,
    "domains?": (list, NoneType),
}
"""What every reader of a run's ``config.yaml`` relies on."""


def read_config(run: Path) -> RunConfig:
    """A run's resolved ``config.yaml``.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: {run} is not a run's folder")
    try:
        config = parse_yaml(read_regular(path))
    except (OSError, StructuredTextError) as error:
        raise UserError(f"{path} is damaged ({getattr(error, 'strerror', None) or error}): put it back") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged (it holds no settings): put it back")
    if told := misfit(config, SETTINGS):
        raise UserError(f"{path} has another shape than it was written in ({told[:150]}): put it back")
    try:
        typed = RunConfig.of(config)
        _written_template(typed)
        _reading_of(typed.data)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has another shape than it was written in ({str(error)[:150]}): put it back") from error
    return typed


def model_spec_of(config: RunConfig) -> ModelSpec:
    """What a resolved configuration says of the model."""
    train = config.train
    return ModelSpec(
        architecture=from_target(config.model.architecture, ARCHITECTURES, "model.architecture"),
        adapter=from_target(config.adapter, ADAPTERS) if config.trains_adapter else NoAdapter(),
        dtype=train.dtype,
        template=_written_template(config),
        image_mode=config.stage.image_mode,
        max_length=train.max_length,
        over_length=train.over_length,
        attn_implementation=config.model.attn_implementation,
        init_from=config.init_from,
        seed=config.seed,
        reading=_reading_of(config.data),
    )


def _written_template(config: RunConfig) -> Template:
    kind, system = config.stage.template, config.model.system
    return Template(kind) if system is None else Template(kind, system)


def _reading_of(data: DataConfig) -> ImageReading:
    """How a run reads images. A range counts outside its source where no other source gives another."""
    ranges = {tuple(node["value_range"]) for node in data.sources.values() if node.get("value_range")}
    value_range = ranges.pop() if len(ranges) == 1 else None
    return ImageReading(data.exif, data.alpha, value_range)
