"""The last whole step: what is saved when something ends the training, and what is not."""

from __future__ import annotations

import pytest
import torch

from llava_moe.errors import UserError
from llava_moe.train.last_step import LastWholeStep
from llava_moe.train.state import RunState

ERROR = RuntimeError("whatever ended the run")


@pytest.fixture
def saved() -> list[RunState]:
    return []


@pytest.fixture
def last(saved: list[RunState]) -> LastWholeStep:
    return LastWholeStep(RunState(step=3), saved.append)


def test_a_step_that_was_not_saved_is_rescued(last: LastWholeStep, saved: list[RunState]) -> None:
    last.before_update()
    last.arrive(RunState(step=4))
    last.rescue(ERROR)
    assert saved == [RunState(step=4)]


def test_what_is_saved_already_is_not_saved_again(last: LastWholeStep, saved: list[RunState]) -> None:
    last.rescue(ERROR)
    assert not saved, "the run began with it"
    last.arrive(RunState(step=4))
    last.save()
    last.rescue(ERROR)
    assert saved == [RunState(step=4)]


def test_weights_halfway_between_two_steps_are_not_saved(last: LastWholeStep, saved: list[RunState]) -> None:
    last.arrive(RunState(step=4))
    last.before_update()
    last.rescue(ERROR)
    assert not saved
    last.keep()
    last.rescue(ERROR)
    assert saved == [RunState(step=4)], "the update was left out"


def test_the_first_step_of_the_next_epoch_is_where_it_goes_on(last: LastWholeStep, saved: list[RunState]) -> None:
    last.arrive(RunState(step=4, epoch=2, epoch_step=9, tokens_seen=7))
    last.turn_epoch()
    last.rescue(ERROR)
    assert saved == [RunState(step=4, epoch=3, epoch_step=0, tokens_seen=7)]


def test_random_numbers_are_put_back_to_those_behind_the_step() -> None:
    drawn: list[torch.Tensor] = []
    last = LastWholeStep(RunState(), lambda _: drawn.append(torch.rand(4)))
    torch.rand(2)
    last.arrive(RunState(step=1))
    expected = torch.rand(4)
    last.rescue(ERROR)
    assert drawn[0].equal(expected)


def test_a_save_that_fails_is_tried_once_and_noted_on_the_error() -> None:
    tries: list[int] = []

    def fail(state: RunState) -> None:
        tries.append(state.step)
        raise UserError("the disk is full")

    last, error = LastWholeStep(RunState(), fail), RuntimeError("a bug")
    last.arrive(RunState(step=1))
    last.rescue(error)
    last.rescue(error)
    assert tries == [1] and error.__notes__ == ["the disk is full"]
    with pytest.raises(UserError, match="the disk is full"):
        last.save()
