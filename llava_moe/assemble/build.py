"""A new model from its recipe: with its weights, or of tensors that hold nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from llava_moe.adapters import Attached, NoAdapter
from llava_moe.assemble.ancestry import load_lineage
from llava_moe.assemble.assembled import Assembled
from llava_moe.assemble.base_checks import refuse_strange_base
from llava_moe.assemble.encoder import encoder_on_base
from llava_moe.assemble.spec import Recipe, dtype_of
from llava_moe.assemble.start_adapter import attach_from
from llava_moe.model import AttentionChoice, BaseModel, build_base, build_base_without_weights, choose_attention
from llava_moe.model.adapter_record import refuse_other_adapter
from llava_moe.model.recorded_weights import BaseWeights, fingerprint_start, refuse_other_embedded
from llava_moe.train.checkpoint import newest_checkpoint


def new_model(recipe: Recipe, device: torch.device) -> Assembled:
    """Build base and adapter, and load ``init_from``'s weights into them.

    Raises:
        UserError: a checkpoint is missing, or its adapter does not fit the one asked for.
    """
    base = build_base(recipe.architecture, dtype_of(recipe.dtype), recipe.seed)
    weights = BaseWeights.of(base.model, recipe.architecture, dtype_of(recipe.dtype))
    attention = set_attention(base, recipe.attn_implementation, device, dtype_of(recipe.dtype))
    start = None if recipe.init_from is None else newest_checkpoint(Path(recipe.init_from))
    notes: tuple[str, ...] = ()
    if start is not None:
        notes = refuse_strange_base(start.parent.parent, weights, is_start=True)
        load_lineage(base.model, start)
        refuse_other_adapter(start / "adapter", weights)
    given = {} if start is None else fingerprint_start(base.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        attached = attach_from(base.model, recipe.adapter, start)
    return replace(_assembled(recipe, base, attached, attention, weights), start=given, notes=notes)


def new_model_without_weights(recipe: Recipe, device: torch.device, place: torch.device | str = "meta") -> Assembled:
    """What :func:`new_model` would build, adapter and all, of tensors that hold nothing: a 7B takes seconds.

    What ``init_from`` would give to the weights is not read, but for an adapter, which must fit the one asked for.

    Args:
        device: where it would train; it decides the attention kernel.
        place: where its tensors stand: ``meta``, or any device under a ``FakeTensorMode``.

    Raises:
        UserError: as :func:`new_model`, weights apart.
    """
    base = build_base_without_weights(recipe.architecture, dtype_of(recipe.dtype), place)
    attention = set_attention(base, recipe.attn_implementation, device, dtype_of(recipe.dtype))
    start = None if recipe.init_from is None else newest_checkpoint(Path(recipe.init_from))
    if start is not None:
        refuse_other_embedded(start.parent.parent, recipe.architecture)
    with torch.random.fork_rng(devices=[]):
        attached = attach_from(base.model, recipe.adapter, start)
    return _assembled(recipe, base, attached, attention, BaseWeights(recipe.architecture, dtype_of(recipe.dtype)))


def set_attention(base: BaseModel, wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    """Choose the language model's attention kernel for a device, and set it; a tower takes ``sdpa``."""
    attention = choose_attention(wanted, device, dtype)
    base.family.set_attention(base.model, attention.name)
    return attention


def _assembled(
    recipe: Recipe, base: BaseModel, attached: Attached, attention: AttentionChoice, weights: BaseWeights
) -> Assembled:
    has_adapter = not isinstance(recipe.adapter, NoAdapter)
    return Assembled(base, attached, encoder_on_base(recipe, base), attention, has_adapter, weights)
