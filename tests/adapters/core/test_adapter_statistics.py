"""What an adapter decided is read from its routers and gates, without a model that ran."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.adapter_statistics import AdapterStatistics
from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.router import Routing, TokenRouter
from llava_moe.adapters.core.segments import Segments
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.errors import UserError

ROUTING = Routing(torch.tensor([[[0.75, 0.25], [0.25, 0.75]]]), torch.tensor([[0, 1]]))


class Decides(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, Routing] = {}

    def routings(self) -> dict[str, Routing]:
        return self.found


class Told(Segments):
    """Segments of a row of two tokens."""

    def of_tokens(self) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, 2, dtype=torch.long), torch.tensor(1)


def read_from(injection: Injection) -> AdapterStatistics:
    model = nn.Module()
    model.add_module("router", next(iter(injection.routers.values()), nn.Linear(1, 1)))
    target_model = TargetModel(model, model, "", {})
    return AdapterStatistics("Some", target_model, injection, Told(), AdapterParameters(target_model, injection))


def routed(**more: Any) -> tuple[AdapterStatistics, TokenRouter]:
    router = TokenRouter(4, 2, "hard", torch.device("cpu"))
    return read_from(Injection(routers={"layers.0.mlp": router}, **more)), router


def test_where_nothing_is_routed_the_loss_is_zero() -> None:
    statistics = read_from(Injection())
    assert not statistics.is_routed and statistics.routings() == {} and statistics.load_balance is None
    assert statistics.auxiliary_loss(None, "mean", None).item() == 0


def test_a_router_that_did_not_run_is_named() -> None:
    statistics, _ = routed()
    with pytest.raises(ValueError, match=r"layers\.0\.mlp has not run since"):
        statistics.routings()
    with pytest.raises(ValueError, match="extra has not run since"):
        read_from(Injection(modules={"extra": Decides()})).routings()


def test_routers_and_gates_are_read_by_name() -> None:
    gate = Decides()
    statistics, router = routed(modules={"extra": gate})
    router.routing = ROUTING
    gate.found = {"": ROUTING, "A": ROUTING}
    assert statistics.is_routed and statistics.routings() == {
        "layers.0.mlp": ROUTING,
        "extra": ROUTING,
        "extra.A": ROUTING,
    }
    totals = statistics.expert_totals(torch.tensor([[0, -1]]), 1)
    assert totals.tokens[0].tolist() == [[1, 0]]


def test_a_block_that_gets_all_rows_in_one_is_told_in_rows_and_one_that_misses_tokens_is_refused() -> None:
    statistics, router = routed()
    router.routing = Routing(ROUTING.probs_BTK[0], ROUTING.chosen_BT[0])
    found = statistics.routings()["layers.0.mlp"]
    assert isinstance(found, Routing) and found.chosen_BT.tolist() == [[0, 1]] and found.probs_BTK.shape == (1, 2, 2)
    router.routing = Routing(ROUTING.probs_BTK[0, :1], ROUTING.chosen_BT[0, :1])
    with pytest.raises(UserError, match="does not see every token once"):
        statistics.routings()


def test_sums_of_a_step_are_refused_where_the_loss_has_none() -> None:
    statistics, router = routed(load_balance=lambda *_: torch.zeros(()))
    router.routing = ROUTING
    with pytest.raises(ValueError, match="Some has no balance loss over a step: see balances_by_step"):
        statistics.balance_totals()
    with pytest.raises(ValueError, match="Some takes no totals of a step: see balances_by_step"):
        statistics.auxiliary_loss(None, "mean", torch.zeros(3))


def test_a_loss_without_gradient_is_warned_of_in_training_alone() -> None:
    given: list[Any] = []

    def noted(*args: Any) -> torch.Tensor:
        given.append(args)
        return torch.ones(())

    statistics, router = routed(load_balance=noted)
    router.routing = ROUTING
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        assert statistics.auxiliary_loss(torch.tensor([True]), "sum", None).item() == 1
    assert given[0][0] == {"layers.0.mlp": ROUTING} and given[0][2:] == (torch.tensor([True]), "sum")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        statistics.auxiliary_loss(None, "mean", None)
