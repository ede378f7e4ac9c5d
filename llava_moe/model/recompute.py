"""Activation checkpointing of a Hugging Face model, by the name that its version of transformers has for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

USE_REENTRANT = {"use_reentrant": False}
"""Trap: reentrant checkpointing drops the balance loss's gradient, so it is no option."""


def recompute_activations(model: Any) -> None:
    """Have ``model`` recompute its layers' activations in the backward pass, instead of keeping them.

    Layers that no gradient reaches keep nothing and are not computed again: those of a frozen tower, and all below the
    first parameter that trains.
    """
    # Older versions know only the old name; from 6 on it is gone, and until then it warns.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=USE_REENTRANT)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=USE_REENTRANT)
    # Trap: it has also made the embeddings of every part require gradients, as reentrant checkpointing needs it. The
    # backward pass would then go through a frozen tower and the frozen layers below the first adapter.
    model.disable_input_require_grads()
    for module in model.modules():
        if hasattr(module, "_gradient_checkpointing_func"):
            module._gradient_checkpointing_func = partial(_where_needed, module._gradient_checkpointing_func)


def _where_needed(recompute: Callable[..., Any], forward: Callable[..., Any], *args: Any) -> Any:
    """Run a layer's ``forward``, to be computed again where a gradient reaches what it is given or what it has.

    Args:
        recompute: transformers' way to have it computed again.
        forward: as transformers hands it over: bound to the layer and its arguments by name.
    """
    given = [*args]
    if isinstance(forward, partial):
        given += [*forward.args, *forward.keywords.values()]
        tensors = [one for one in given if isinstance(one, torch.Tensor)]
        tensors += [one for module in given if isinstance(module, nn.Module) for one in module.parameters()]
        if not any(tensor.requires_grad for tensor in tensors):
            return forward(*args)
    return recompute(forward, *args)
