"""The adapter of a new model: a fresh one, or one that starts from the adapter of a checkpoint."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import LlavaForConditionalGeneration

from llava_moe.adapters import Attached, Mole, NoAdapter, attach, load_adapter
from llava_moe.adapters.formats.native_format import read_settings
from llava_moe.assemble.registered import settings_named
from llava_moe.assemble.spec import read_config
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig


def attach_from(model: LlavaForConditionalGeneration, config: Any, start: Path | None) -> Attached:
    """Attach a fresh adapter, or one that starts from the adapter of a checkpoint.

    Raises:
        UserError: the adapter does not fit the model, or not what it starts from; with the key that is at fault.
    """
    if start is None or not (start / "adapter").is_dir():
        if start is not None and _trained_adapter(read_config(start.parent.parent)):
            raise UserError(f"init_from: {start / 'adapter'} is missing, which that run trained: copy the run again")
        return _attach(model, config)
    if isinstance(config, NoAdapter):
        raise UserError(f"init_from: {start} has an adapter and adapter=none: keep its adapter, or merge it first")
    if isinstance(config, Mole) and read_settings(start / "adapter").get("method") != config.method:
        # Its experts are LoRAs from folders of their own: of what it starts from it takes the base parts.
        return _attach(model, config)
    before = load_adapter(model, start / "adapter")
    tensors = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    theirs = before.config
    before.detach()
    attached = _attach(model, config)
    try:
        attached.load_state_dict(tensors)
    except UserError as error:
        raise UserError(
            f"init_from={start}: its adapter is another than the one asked for ({_difference(theirs, config)}): give "
            "the same adapter settings, or start from a run without an adapter"
        ) from error
    return attached


def _attach(model: LlavaForConditionalGeneration, config: Any) -> Attached:
    # Not around what is read of the start: its files speak of their own settings.
    with settings_named(type(config), "adapter"):
        return attach(model, config)


def _trained_adapter(config: RunConfig) -> bool:
    """Whether a run with this configuration leaves an adapter in its checkpoints."""
    return not str(config.adapter.get("_target_")).endswith(".NoAdapter") and config.trains_adapter


def _difference(theirs: Any, ours: Any) -> str:
    """Two adapter configurations, where they differ, in words."""
    if type(theirs) is not type(ours):
        return f"{type(theirs).__name__} there, {type(ours).__name__} asked"
    pairs = [(field.name, getattr(theirs, field.name), getattr(ours, field.name)) for field in fields(ours)]
    return ", ".join(
        f"adapter.{name} {there!r} there, {asked!r} asked" for name, there, asked in pairs if there != asked
    )
