"""Activation checkpointing of a Hugging Face model, by the name that its version of transformers has for it."""

from __future__ import annotations

from typing import Any

USE_REENTRANT = {"use_reentrant": False}
"""Trap: reentrant checkpointing drops the balance loss's gradient, so it is no option."""


def recompute_activations(model: Any) -> None:
    """Have ``model`` recompute its layers' activations in the backward pass, instead of keeping them."""
    # Older versions know only the old name; from 6 on it is gone, and until then it warns.
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=USE_REENTRANT)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=USE_REENTRANT)
