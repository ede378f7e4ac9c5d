"""MoLE by whole units: a layer, block or network run once for each expert (arXiv 2404.13628, eq. 12-13).

Shape suffixes: B rows, T tokens, D hidden, S examples, K experts.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from llava_moe.adapters.core.method import Forward
from llava_moe.adapters.methods.mole_gate import ExpertGate
from llava_moe.errors import UserError
from llava_moe.kv_cache import CACHE_NAMES, find_cache, returned_cache

NO_CACHE = {"use_cache": False, **dict.fromkeys(CACHE_NAMES)}


class ExactUnit:
    """O = F(x) + sum_i G_i E_i with E_i = F_i(x) - F(x): F the frozen unit, F_i the unit with expert i alone.

    The paper's E_i is the unit run on the LoRA's weights alone, around its residual connection; a LoRA is no unit by
    itself, so here E_i is what it changes. G is the gate's, from the means of the E_i over each example's prompt.

    It runs the unit K + 1 times and, in training, keeps what each needs. A key-value cache serves the pass without
    experts; the others have caches of their own beside it, which follow its growth and nothing else.

    Args:
        gate: weighs the E_i; the unit's banks follow it.
        unit: the module whose ``forward`` this stands in for.
    """

    def __init__(self, gate: ExpertGate, unit: nn.Module) -> None:
        # In a tuple, and not as a bound method, so that a copied model's copy finds the copied unit.
        self.gate, self.unit = gate, (unit,)
        self._caches: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()

    def __call__(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Run the unit's own ``forward`` for each expert and mix what they change."""
        self._refuse_recomputed_parts()
        num_experts, given = len(self.gate.widths), find_cache(kwargs)
        name, cache = given or ("", None)
        others = self._caches_beside(cache, num_experts)
        plain = self._run(None, forward, args, kwargs)
        results = [
            self._run(index, forward, args, kwargs if cache is None else kwargs | {name: others[index]})
            for index in range(num_experts)
        ]
        self._remember(plain, results)
        base_BTD = _hidden(plain)
        deltas = [_hidden(result) - base_BTD for result in results]
        segments = self.gate.segments
        self.gate.decide(lambda: torch.cat([segments.pool(delta_BTD) for delta_BTD in deltas], -1))
        weights_BTK = segments.spread(self.gate.weights()).to(base_BTD.dtype)
        mixed_BTD = base_BTD
        for weight_BT, delta_BTD in zip(weights_BTK.unbind(-1), deltas, strict=True):
            mixed_BTD = mixed_BTD + weight_BT.unsqueeze(-1) * delta_BTD
        return _with_hidden(plain, mixed_BTD)

    def _run(self, index: int | None, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One pass. Where the unit checkpoints itself, this does in its stead: recomputed, a pass is held again."""
        unit: Any = self.unit[0]
        call = self.gate.segments.call

        def run(*args: Any) -> Any:
            if self.gate.segments.is_recomputing:
                self.gate.segments.go_back_to(call)
            self.gate.hold(index)
            flag, unit.gradient_checkpointing = unit.gradient_checkpointing, False
            try:
                return forward(*args, **kwargs)
            finally:
                unit.gradient_checkpointing = flag

        if unit.training and getattr(unit, "gradient_checkpointing", False):
            # As transformers does: a pass that is computed again must not write to a cache twice.
            kwargs = kwargs | {key: value for key, value in NO_CACHE.items() if key in kwargs}
            return checkpoint(run, *args, use_reentrant=False)
        self.gate.hold(index)
        return forward(*args, **kwargs)

    def _refuse_recomputed_parts(self) -> None:
        """Parts that are computed again in the backward pass would meet the weights of the last pass, not their own."""
        (unit,) = self.unit
        inside = (module for module in unit.modules() if module is not unit)
        if unit.training and any(getattr(module, "gradient_checkpointing", False) for module in inside):
            raise UserError(
                "adapter.exact=true with adapter.granularity=network and train.activation_checkpointing=true exclude "
                "each other"
            )

    def _caches_beside(self, cache: Any, num_experts: int) -> list[Any]:
        if cache is None:
            return []
        if not isinstance(cache, DynamicCache):
            raise UserError(
                f"exact=true keeps a DynamicCache for each expert and cannot follow a {type(cache).__name__}"
            )
        if cache not in self._caches:
            if self.gate.segments.cache_was_filled:
                raise ValueError("the call goes on with a cache whose prompt did not pass through this adapter")
            self._caches[cache] = [DynamicCache() for _ in range(num_experts)]
        return self._caches[cache]

    def _remember(self, plain: Any, results: list[Any]) -> None:
        """A language model that was given no cache has made them itself."""
        made = returned_cache(plain)
        if made is not None and made not in self._caches:
            self._caches[made] = [returned_cache(result) for result in results]

    def __getstate__(self) -> dict[str, Any]:
        return {"gate": self.gate, "unit": self.unit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.gate, self.unit, self._caches = state["gate"], state["unit"], weakref.WeakKeyDictionary()


def _hidden(result: Any) -> Tensor:
    """The hidden states in what a layer, an attention or a whole decoder returns."""
    if isinstance(result, Tensor):
        return result
    hidden: Tensor = result[0] if isinstance(result, tuple) else result.last_hidden_state
    return hidden


def _with_hidden(result: Any, hidden_BTD: Tensor) -> Any:
    if isinstance(result, Tensor):
        return hidden_BTD
    if isinstance(result, tuple):
        return (hidden_BTD, *result[1:])
    changed = copy.copy(result)
    changed.last_hidden_state = hidden_BTD
    return changed
