"""What an adapter decided in the last forward pass: routings, counts, and the balance loss made from them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.load_balance import AnyRouting, ExpertTotals, count_experts
from llava_moe.adapters.core.method import HasRoutings, Injection, LoadBalance, StepBalance
from llava_moe.adapters.core.router import Routing
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.errors import UserError


class AdapterStatistics:
    """Reads the routers and gates of an adapter after a forward pass.

    Args:
        method_name: what the method is called in messages.
        target_model: the model.
        injection: what the method put on it.
        segments: the examples of the last forward pass.
        parameters: those of the adapter.
    """

    def __init__(
        self,
        method_name: str,
        target_model: TargetModel,
        injection: Injection,
        segments: Segments,
        parameters: AdapterParameters,
    ) -> None:
        self._method_name, self._target_model, self._injection = method_name, target_model, injection
        self._segments, self._parameters = segments, parameters

    @property
    def load_balance(self) -> LoadBalance | StepBalance | None:
        """The balance loss; ``None`` where nothing is routed."""
        return self._injection.load_balance

    @property
    def is_routed(self) -> bool:
        """Whether something is chosen or weighted by the input."""
        return bool(self._injection.routers) or bool(self._deciders())

    def routings(self) -> dict[str, AnyRouting]:
        """What each router or gate decided in the last forward pass, by the name of its block or linear.

        Raises:
            ValueError: one of them did not run since the adapter was attached.
        """
        decided: dict[str, AnyRouting] = {}
        for name, router in self._injection.routers.items():
            if router.routing is None:
                raise ValueError(f"{name} has not run since the adapter was attached")
            decided[self._target_model.short(name)] = self._in_rows(name, router.routing)
        for name, decider in self._deciders().items():
            routings = decider.routings()
            if not routings:
                raise ValueError(f"{name} has not run since the adapter was attached")
            for suffix, routing in routings.items():
                decided[f"{self._target_model.short(name)}.{suffix}" if suffix else self._target_model.short(name)] = (
                    routing
                )
        return decided

    def balance_totals(self, is_real: Tensor | None = None) -> Tensor:
        """float64, what the last forward pass adds to the sums that a balance loss over a whole step is made from.

        Raises:
            ValueError: there are no such sums.
        """
        if not isinstance(self.load_balance, StepBalance):
            raise ValueError(f"{self._method_name} has no balance loss over a step: see balances_by_step")
        return self.load_balance.totals(self.routings(), self._segments, is_real)

    def auxiliary_loss(self, is_real: Tensor | None, reduction: str, totals: Tensor | None) -> Tensor:
        """The unweighted load-balance loss of the last forward pass, an fp32 scalar; 0 where nothing is routed."""
        balance = self.load_balance
        if balance is None:
            return torch.zeros((), device=next(self._target_model.model.parameters()).device)
        if totals is not None:
            if not isinstance(balance, StepBalance):
                raise ValueError(f"{self._method_name} takes no totals of a step: see balances_by_step")
            loss = balance(self.routings(), self._segments, is_real, reduction, totals)
        else:
            loss = balance(self.routings(), self._segments, is_real, reduction)
        is_learning = self._target_model.model.training and torch.is_grad_enabled()
        if is_learning and not loss.requires_grad and self._parameters.trainable():
            warnings.warn(
                "the load-balance loss has no gradient: the forward pass ran without one, as reentrant activation "
                "checkpointing does; set use_reentrant=False",
                stacklevel=3,  # who called the handle
            )
        return loss

    def expert_totals(self, domains_BT: Tensor, num_domains: int) -> ExpertTotals:
        """Who served the tokens of the last forward pass, and router entropy, by layer and domain (-1: not counted)."""
        return count_experts(self.routings(), domains_BT, num_domains)

    def _deciders(self) -> dict[str, HasRoutings]:
        modules: dict[str, Any] = {name: wide.gate for name, wide in self._injection.linears.items()}
        modules |= self._injection.modules
        return {name: module for name, module in modules.items() if isinstance(module, HasRoutings)}

    def _in_rows(self, name: str, routing: Routing) -> Routing:
        """The routing as [B, T, ...]: the MLP beside the experts of a mixture gets the tokens of all rows in one."""
        if routing.chosen_BT.ndim == 2:
            return routing
        segments_BT, _ = self._segments.of_tokens()
        if routing.chosen_BT.numel() != segments_BT.numel():
            raise UserError(f"{name} does not see every token once: leave its linears out of expert_modules")
        return Routing(routing.probs_BTK.view(*segments_BT.shape, -1), routing.chosen_BT.view_as(segments_BT))
