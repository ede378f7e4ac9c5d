"""What this machine reaches now: of matrix products, and of operations whose arithmetic is nothing.

Means, not the best of several: what else runs here slows training as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_SECONDS = 0.4
_SIZE = 768
_CHAIN = 200


def product_rate(dtype: str) -> float:
    """FLOP/s of matrix products in ``bf16`` or ``fp32`` on the CPU threads that torch has."""
    import torch

    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    left, right = torch.randn(_SIZE, _SIZE).to(kind), torch.randn(_SIZE, _SIZE).to(kind)
    return 2 * _SIZE**3 / _mean_seconds(lambda: left @ right)


def operation_seconds() -> float:
    """Seconds of a small operation that is differentiated, forward or backward."""
    import torch

    start = torch.zeros(8, 8, requires_grad=True)

    def pass_through() -> None:
        value = start
        for _ in range(_CHAIN):
            value = value + 1
        value.sum().backward()

    return _mean_seconds(pass_through) / (2 * _CHAIN)


def _mean_seconds(work: Callable[[], object]) -> float:
    work()  # the first one loads kernels
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        work()
        times += 1
    return (time.perf_counter() - started) / times
