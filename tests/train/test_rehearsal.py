"""Rows that are tried before step 1, in one process: no trace is left, and a row too long is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.train.pulse import Pulse
from llava_moe.train.rehearsal import Scene, rehearse
from tests.tiny_training import OBJECTIVE, Bigram, engine_of, rows_of


class Watched(Bigram):
    """Notes where the pulse is, and draws random numbers as dropout does; runs out of memory where it is told to."""

    def __init__(self, pulse: Pulse) -> None:
        super().__init__()
        self.pulse, self.is_full = pulse, False
        self.seen: list[str] = []

    def forward(self, input_ids: torch.Tensor, logits_to_keep: torch.Tensor | int) -> SimpleNamespace:
        torch.rand(3)
        if self.is_full:
            raise torch.OutOfMemoryError("no")
        output = super().forward(input_ids, logits_to_keep)
        self.seen.append(self.pulse.place.phase)
        return output


def test_it_leaves_no_trace_and_says_where_it_is() -> None:
    pulse = Pulse(3)
    model = Watched(pulse)
    engine, before = engine_of(model), {name: one.clone() for name, one in model.state_dict().items()}
    entered: list[str] = []

    @contextmanager
    def noted() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    random = torch.get_rng_state()
    rehearse(
        engine, OBJECTIVE, [Scene("short", rows_of([[0]])[0]), Scene("long", rows_of([[1, 2]])[0], noted())], pulse
    )
    assert model.seen == ["the rehearsal (short), forwards into head", "the rehearsal (long), forwards into head"]
    assert entered == ["in", "out"]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one.grad is None for one in (*model.parameters(), *engine.masters.values()))
    assert not any(one._forward_pre_hooks for one in model.modules())
    assert pulse.place.step == 3


def test_a_row_that_does_not_fit_is_told_with_its_tokens() -> None:
    pulse = Pulse()
    model = Watched(pulse)
    model.is_full = True
    row = rows_of([[0, 1]])[0]
    with pytest.raises(UserError, match=rf"rehearsal \(the longest row\): a row of {row.num_tokens} tokens") as told:
        rehearse(engine_of(model), OBJECTIVE, [Scene("the longest row", row)], pulse)
    assert "train.tokens_per_micro_batch" in str(told.value)
    assert not any(one._forward_pre_hooks for one in model.modules())
