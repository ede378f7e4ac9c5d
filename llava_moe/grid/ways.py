"""A way of training that a page sets beside others, and how large what it trains is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_moe.grid.results import Results


@dataclass(frozen=True)
class Ways:
    """One way of training: how a page calls it, and the labels of its cells."""

    name: str
    labels: Mapping[str, Any]


def size_of(results: Results, way: Ways) -> tuple[float | None, float | None]:
    """Trainable parameters of the adapter, and floating-point operations a token of a forward pass."""
    found = [*results.of(**way.labels).values()]
    flops = [one.flops_per_token for one in found if one.flops_per_token is not None]
    return (float(found[0].parameters) if found else None), (float(np.mean(flops)) if flops else None)
