"""Activation checkpointing of a Hugging Face model, by the name that its version of transformers has for it."""

from __future__ import annotations

from typing import Any

from torch import nn

USE_REENTRANT = {"use_reentrant": False}
"""Trap: reentrant checkpointing drops the balance loss's gradient, so it is no option."""


def recompute_activations(model: Any) -> None:
    """Have ``model`` recompute its layers' activations in the backward pass, instead of keeping them.

    Layers that no gradient reaches keep nothing and are not computed again: those of a frozen tower, and all below the
    first parameter that trains. Call it when what trains is set.
    """
    # Older versions know only the old name; from 6 on it is gone, and until then it warns.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=USE_REENTRANT)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=USE_REENTRANT)
    # Trap: it has also made the embeddings of every part require gradients, as reentrant checkpointing needs it. The
    # backward pass would then go through a frozen tower and the frozen layers below the first adapter.
    model.disable_input_require_grads()
    _spare_frozen_start(model)


def _spare_frozen_start(model: nn.Module) -> None:
    """Switch recomputation off in layers at or before which nothing trains.

    Modules come in the order in which a model registers them, which is the order of its data. Where it is not, a layer
    keeps activations that could be computed again: its results stay the same.
    """
    something_trains = False
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            inside = any(parameter.requires_grad for parameter in module.parameters())
            module.gradient_checkpointing = something_trains or inside  # type: ignore[assignment]
        something_trains |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
