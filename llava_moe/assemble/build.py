"""A new model from its specification: with its weights, or of tensors that hold nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from llava_moe.adapters import Attached, NoAdapter
from llava_moe.assemble.ancestry import load_lineage
from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.base_checks import refuse_strange_base
from llava_moe.assemble.encoder import encoder_on_base
from llava_moe.assemble.spec import ModelSpec, dtype_of
from llava_moe.assemble.start_adapter import attach_from
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.model import AttentionChoice, BaseModel, build_base, build_base_without_weights, choose_attention
from llava_moe.model.adapter_record import refuse_other_adapter
from llava_moe.model.recorded_weights import BaseWeights, fingerprint_start, refuse_other_embedded


def new_model(model_spec: ModelSpec, device: torch.device) -> Assembled:
    """Build base and adapter, and load ``init_from``'s weights into them.

    Raises:
        UserError: a checkpoint is missing, or its adapter does not fit the one asked for.
    """
    base = build_base(model_spec.architecture, dtype_of(model_spec.dtype), model_spec.seed)
    weights = BaseWeights.of(base.model, model_spec.architecture, dtype_of(model_spec.dtype))
    attention = set_attention(base, model_spec.attn_implementation, device, dtype_of(model_spec.dtype))
    start = None if model_spec.init_from is None else newest_checkpoint(Path(model_spec.init_from))
    notes: tuple[str, ...] = ()
    if start is not None:
        notes = refuse_strange_base(start.parent.parent, weights, is_start=True)
        load_lineage(base.model, start)
        refuse_other_adapter(start / "adapter", weights)
    given = {} if start is None else fingerprint_start(base.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model_spec.seed)
        attached = attach_from(base.model, model_spec.adapter, start)
    return replace(_assembled(model_spec, base, attached, attention, weights), start=given, notes=notes)


def new_model_without_weights(
    model_spec: ModelSpec, device: torch.device, place: torch.device | str = "meta"
) -> Assembled:
    """What :func:`new_model` would build, adapter and all, of tensors that hold nothing: a 7B takes seconds.

    What ``init_from`` would give to the weights is not read, but for an adapter, which must fit the one asked for.

    Args:
        device: where it would train; it decides the attention kernel.
        place: where its tensors stand: ``meta``, or any device under a ``FakeTensorMode``.

    Raises:
        UserError: as :func:`new_model`, weights apart.
    """
    base = build_base_without_weights(model_spec.architecture, dtype_of(model_spec.dtype), place)
    attention = set_attention(base, model_spec.attn_implementation, device, dtype_of(model_spec.dtype))
    start = None if model_spec.init_from is None else newest_checkpoint(Path(model_spec.init_from))
    if start is not None:
        refuse_other_embedded(start.parent.parent, model_spec.architecture)
    with torch.random.fork_rng(devices=[]):
        attached = attach_from(base.model, model_spec.adapter, start)
    return _assembled(
        model_spec, base, attached, attention, BaseWeights(model_spec.architecture, dtype_of(model_spec.dtype))
    )


def set_attention(base: BaseModel, wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Choose the language model's attention kernel for a device, and set it; a tower takes ``sdpa``."""
    attention = choose_attention(wanted, device, dtype)
    base.family.set_attention(base.model, attention.name)
    return attention


def _assembled(
    model_spec: ModelSpec, base: BaseModel, attached: Attached, attention: AttentionChoice, weights: BaseWeights
) -> Assembled:
    has_adapter = not isinstance(model_spec.adapter, NoAdapter)
    return Assembled(base, attached, encoder_on_base(model_spec, base), attention, has_adapter, weights)
