"""Sizes that an adapter's settings ask for, held against the model and the machine before memory is taken for them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.errors import UserError

ALWAYS_TAKEN = 1024
"""Whatever the model: a small one takes the settings of a large one, as the demo does."""


def refuse_oversized(linears: Mapping[str, nn.Linear], sizes: Mapping[str, int], width: int) -> None:
    """Refuse a bank that says more than its linears can, or that no memory here holds.

    Args:
        linears: those that get a bank each.
        sizes: by the name of the setting: the rank, or how many experts or factors.
        width: columns of a bank, at most: the ranks of all its experts together.

    Raises:
        UserError: naming the setting.
    """
    widest = max((max(linear.in_features, linear.out_features) for linear in linears.values()), default=0)
    for name, size in sizes.items():
        if size > max(widest, ALWAYS_TAKEN):
            raise UserError(
                f"{name}={quote_value(size)} is more than any linear here can use, of which the widest has {widest} "
                "inputs or outputs: lower it"
            )
    device = next((linear.weight.device for linear in linears.values()), torch.device("meta"))
    numbers = sum(width * (linear.in_features + linear.out_features) for linear in linears.values())
    needed, there = numbers * torch.get_default_dtype().itemsize, _memory_of(device)
    if there is not None and needed > there:
        named = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise UserError(
            f"an adapter of {named} has {numbers:,} numbers, {needed / 2**30:,.0f} GiB, and there are "
            f"{there / 2**30:,.0f} GiB of memory on {device.type}: lower them"
        )


def _memory_of(device: torch.device) -> int | None:
    """Bytes of a device; None where tensors take none."""
    if device.type == "cpu":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
