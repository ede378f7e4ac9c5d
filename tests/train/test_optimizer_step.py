"""One optimizer step: one mean over all rows and ranks, one reduction, and what is told when it cannot be taken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_moe.errors import INTERRUPTED, STOPPED, UserError
from llava_moe.train.engine import LocalEngine
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer_step import StepOutcome, take_step
from tests.tiny_training import (
    CPU,
    DOMAINS,
    OBJECTIVE,
    SETTINGS,
    Bigram,
    ListedStep,
    engine_of,
    group_of,
    inputs_of,
    rows_of,
    token_losses,
)

Gradients = dict[str, torch.Tensor]
NOT_ASKED = {0: 0, 1: 0}


class Rank(LocalEngine):
    """One of two ranks, each a thread with a model of its own: sums meet, and gradients of both are added up."""

    def __init__(self, rank: int, given: dict[int, torch.Tensor], barrier: threading.Barrier) -> None:
        model = Bigram()
        super().__init__(model, [group_of(model)], SETTINGS, CPU)
        self.rank, self.world, self.given, self.barrier_of_both = rank, 2, given, barrier

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.given[self.rank] = values
        self.barrier_of_both.wait()
        total = self.given[0] + self.given[1]
        self.barrier_of_both.wait()
        return total

    def step(self, learning_rates: Any) -> float:
        for master in self.masters.values():
            assert master.grad is not None
            master.grad = self.sum(master.grad)
        return super().step(learning_rates)


def stepped(
    engine: LocalEngine, seats: list[list[int]], objective: Objective = OBJECTIVE, **rest: Any
) -> tuple[StepOutcome, Gradients]:
    """Take a step at rate 0; the gradients are those that the optimizer saw."""
    seen: Gradients = {}
    engine.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: one.grad.clone() for name, one in engine.masters.items() if one.grad is not None})
    )
    return take_step(engine, objective, ListedStep(rows_of(seats)), [0.0], len(DOMAINS), **rest), seen


def mean_by_hand(samples: list[int]) -> tuple[float, Gradients]:
    model = Bigram()
    loss = torch.cat([token_losses(model, at) for at in samples]).mean()
    loss.backward()
    return loss.item(), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def in_two_ranks(
    seats: Mapping[int, list[list[int]]], asked: Mapping[int, int] = NOT_ASKED
) -> list[tuple[StepOutcome, Gradients]]:
    """A step of each rank with its own rows, and the exit status that a signal asks of it."""
    given: dict[int, torch.Tensor] = {}
    barrier = threading.Barrier(2, timeout=10)
    # Before any thread is there: they would draw their weights from one generator.
    ranks = [Rank(rank, given, barrier) for rank in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda one: stepped(one, seats[one.rank], stop_status=lambda: asked[one.rank]), ranks))


def test_the_mean_is_over_the_tokens_of_all_ranks_and_rows() -> None:
    loss, gradients = mean_by_hand([0, 3, 2, 1, 4, 5])
    for outcome, seen in in_two_ranks({0: [[0, 3], [2]], 1: [[1, 4], [5]]}):
        assert outcome.objective == outcome.sums.loss == pytest.approx(loss, abs=1e-6)
        assert outcome.sums.samples_D.tolist() == [3, 1, 2]
        for name, gradient in gradients.items():
            assert (seen[name] - gradient).abs().max() < 1e-7, name


@pytest.mark.parametrize(
    ("asked", "heard"),
    [({0: STOPPED, 1: INTERRUPTED}, INTERRUPTED), ({0: 0, 1: STOPPED}, STOPPED), ({0: 0, 1: 0}, 0)],
)
def test_a_signal_in_one_rank_is_heard_by_all_and_the_strongest_wins(asked: dict[int, int], heard: int) -> None:
    outcomes = in_two_ranks({0: [[0]], 1: [[1]]}, asked)
    assert [outcome.stop_status for outcome, _ in outcomes] == [heard] * 2


def test_the_balance_loss_is_a_mean_over_examples_with_its_weight() -> None:
    model = Bigram()
    engine, scale = engine_of(model), model.head.weight

    def balance(is_real: torch.Tensor, totals: torch.Tensor | None) -> torch.Tensor:
        assert totals is None
        return is_real.sum() * (3.0 + scale[0, 0])

    outcome, seen = stepped(engine, [[0, 3, 2], [1]], Objective(inputs_of, 0.5, balance))
    loss, gradients = mean_by_hand([0, 3, 2, 1])
    corner = scale.detach()[0, 0].item()
    assert outcome.sums.loss == pytest.approx(loss, abs=1e-6), "cross-entropy alone"
    assert outcome.objective == pytest.approx(loss + 0.5 * (3.0 + corner), abs=1e-6)
    expected = gradients["head.weight"].clone()
    expected[0, 0] += 0.5
    assert (seen["head.weight"] - expected).abs().max() < 1e-7


@pytest.mark.parametrize("seats", [[[0, 3], [1], [2]], [[0, 3, 1, 2]]])
def test_a_balance_loss_over_the_step_gets_the_sums_of_all_its_rows_and_one_row_knows_them(
    seats: list[list[int]],
) -> None:
    calls: list[tuple[str, bool]] = []

    def totals_of(is_real: torch.Tensor) -> torch.Tensor:
        calls.append(("totals", torch.is_grad_enabled()))
        return is_real.sum().double()

    def balance(is_real: torch.Tensor, totals: torch.Tensor | None) -> torch.Tensor:
        calls.append((f"loss {totals}", torch.is_grad_enabled()))
        return torch.zeros(())

    engine = engine_of(Bigram())
    stepped(engine, seats, Objective(inputs_of, 1.0, balance, totals_of))
    if len(seats) == 1:
        assert calls == [("loss None", True)]
    else:
        assert calls == [("totals", False)] * 3 + [("loss 4.0", True)] * 3


def test_routing_of_all_rows_is_added_up() -> None:
    def totals(domains: torch.Tensor, num_domains: int) -> SimpleNamespace:
        real = domains[domains >= 0]
        counts_D = torch.bincount(real, minlength=num_domains).double()
        tokens_LDK = torch.stack([counts_D, torch.zeros_like(counts_D)], -1)[None]
        return SimpleNamespace(tokens=tokens_LDK, entropy=counts_D[None] * 0.5, layer_names=("a",), num_experts=(2,))

    outcome, _ = stepped(engine_of(Bigram()), [[0, 3], [1, 2]], replace(OBJECTIVE, expert_totals=totals))
    assert outcome.expert_tokens is not None and outcome.expert_entropy is not None
    assert outcome.expert_tokens.tolist() == [[[7, 0], [8, 0], [12, 0]]]
    assert outcome.expert_entropy.tolist() == [[3.5, 4.0, 6.0]]
    assert (outcome.layer_names, outcome.num_experts) == (("a",), (2,))
    without, _ = stepped(engine_of(Bigram()), [[0]])
    assert without.expert_tokens is None and without.layer_names == ()


def test_what_is_asked_and_called_comes_in_its_order() -> None:
    engine = engine_of(Bigram())
    order: list[str] = []
    backward, step = engine.backward, engine.step

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def note(*given: Any, **named: Any) -> Any:
            order.append(name)
            return call(*given, **named)

        return note

    engine.backward = noted("backward", backward)  # type: ignore[method-assign]
    engine.step = noted("update", step)  # type: ignore[method-assign]
    stepped(engine, [[0], [1]], stop_status=noted("signal?", lambda: 0), before_update=noted("before", lambda: None))
    assert order == ["backward", "backward", "signal?", "before", "update"]


def test_only_the_last_backward_of_a_step_is_the_last() -> None:
    engine = engine_of(Bigram())
    told: list[bool] = []
    backward = engine.backward

    def note(loss: torch.Tensor, is_last: bool) -> None:
        told.append(is_last)
        backward(loss, is_last)

    engine.backward = note  # type: ignore[method-assign]
    stepped(engine, [[0], [1], [2]])
    assert told == [False, False, True]


def test_a_loss_that_is_not_finite_updates_nothing_and_leaves_no_gradient_behind() -> None:
    engine = engine_of(Bigram())
    objective = Objective(inputs_of, 1.0, lambda is_real, _: torch.tensor(float("inf")))
    called: list[str] = []
    outcome, seen = stepped(engine, [[0]], objective, before_update=lambda: called.append("update"))
    assert not outcome.is_finite and outcome.objective == float("inf") and outcome.grad_norm != outcome.grad_norm
    assert not called and not seen and all(master.grad is None for master in engine.masters.values())


def test_a_gradient_that_is_not_finite_is_no_finite_step_though_its_loss_is() -> None:
    engine = engine_of(Bigram())
    engine.step = lambda learning_rates: float("nan")  # type: ignore[method-assign]
    outcome, _ = stepped(engine, [[0]])
    assert not outcome.is_finite and outcome.objective > 0


def raises(error: Exception) -> Objective:
    def inputs(batch: object) -> Mapping[str, Any]:
        raise error

    return Objective(inputs)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("DefaultCPUAllocator: no")]
)
def test_a_row_that_does_not_fit_into_memory_is_told_with_its_size_and_a_remedy(error: Exception) -> None:
    step = ListedStep(rows_of([[0, 3]]), epoch=2, index=7)
    with pytest.raises(UserError) as refused:
        take_step(engine_of(Bigram()), raises(error), step, [0.0], len(DOMAINS))
    (line,) = str(refused.value).splitlines()
    assert line.startswith("out of memory on a row of 7 tokens and 0 images (epoch 2, step 7): lower train.tokens_per_")


def test_another_error_of_a_row_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        stepped(engine_of(Bigram()), [[0]], raises(RuntimeError("a bug")))
