"""Routers made to choose one expert for every token: the most uneven that a step can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from llava_moe.adapters.core.router import TokenRouter

FAVOR = 1e4
"""What the logit of the expert gets on top: no other has a chance."""


@contextmanager
def one_expert_takes_all(routers: Iterable[TokenRouter], expert: int) -> Iterator[None]:
    """Within, every router sends all tokens to ``expert``, taken modulo the number of its experts."""

    def favored(router: TokenRouter, _: Any, logits_BTK: Tensor) -> Tensor:
        favor_K = logits_BTK.new_zeros(router.num_experts)
        favor_K[expert % router.num_experts] = FAVOR
        return logits_BTK + favor_K

    handles = [router.register_forward_hook(favored) for router in routers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
