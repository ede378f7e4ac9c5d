"""The loop of steps and epochs: where it begins, what it writes down, where it stops, what it saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from llava_moe.errors import INTERRUPTED, STOPPED, StoppedBySignalError, UserError
from llava_moe.train.log import StepRecord
from llava_moe.train.loop import LoopSettings, Validate, train
from llava_moe.train.objective import Objective
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState
from tests.tiny_training import (
    DOMAINS,
    OBJECTIVE,
    SAMPLES,
    SETTINGS,
    Bigram,
    KeptRun,
    ListedStream,
    engine_of,
    inputs_of,
    token_losses,
)

# Two steps an epoch, of two micro-batches each; the rows teach 4 and 9 tokens, and 3 and 7.
SEATS = [[[0, 3, 2], [1]], [[4, 0], [5, 3, 2, 0]]]
LEARNING_RATE = 0.1
NAN = float("nan")
EVERY = LoopSettings(DOMAINS, save_every=0)


class Training:
    """A bigram, its engine, a stream and a run, ready to be trained."""

    def __init__(self, seats: Sequence[Sequence[Sequence[int]]] = SEATS, objective: Objective = OBJECTIVE) -> None:
        self.model = Bigram()
        self.engine = engine_of(self.model)
        self.stream, self.run, self.objective = ListedStream(seats), KeptRun(self.engine), objective

    def train(
        self,
        num_steps: int,
        settings: LoopSettings = EVERY,
        state: RunState = RunState(),  # noqa: B008  # it is frozen
        validate: Validate | None = None,
    ) -> RunState:
        schedule = Schedule(num_steps, warmup_ratio=0.25)
        rates = [LEARNING_RATE]
        return train(self.engine, self.stream, self.objective, schedule, rates, self.run, settings, state, validate)


def plain_training(num_steps: int, length: int) -> Bigram:
    """The first steps of a run of ``length``, by torch alone: the mean of all tokens of a step, one by one."""
    model, schedule = Bigram(), Schedule(length, warmup_ratio=0.25)
    optimizer = torch.optim.AdamW(model.parameters(), eps=SETTINGS.epsilon, weight_decay=0.0)
    for number in range(num_steps):
        samples = [at for row in SEATS[number % len(SEATS)] for at in row]
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * schedule.factor(number)
        optimizer.zero_grad()
        torch.cat([token_losses(model, at) for at in samples]).mean().backward()
        optimizer.step()
    return model


def are_finite(weights: dict[str, torch.Tensor]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in weights.values())


def are_close(weights: dict[str, torch.Tensor], model: Bigram) -> bool:
    return all((weights[name] - one).abs().max() < 1e-5 for name, one in model.named_parameters())


def test_a_run_is_plain_adamw_on_the_mean_over_each_steps_tokens() -> None:
    training = Training()
    state = training.train(5)
    expected = plain_training(5, 5)
    assert are_close(training.engine.trained_tensors(), expected)
    assert not are_close(training.engine.trained_tensors(), plain_training(4, 5))
    (first, second), num_samples = ([at for row in step for at in row] for step in SEATS), [4, 6]
    assert state.samples_seen == 3 * num_samples[0] + 2 * num_samples[1]
    tokens = [sum(len(SAMPLES[at][1]) + 1 for at in samples) for samples in (first, second)]
    assert state.tokens_seen == 3 * tokens[0] + 2 * tokens[1]


def test_training_stops_at_its_last_step_in_the_middle_of_an_epoch() -> None:
    training = Training([SEATS[0]] * 4)
    state = training.train(6)
    assert (state.step, state.epoch, state.epoch_step) == (6, 1, 2)
    assert training.stream.asked == [(0, 0), (1, 0)] and training.stream.num_closed == 2
    assert training.run.logged == [1, 2, 3, 4, 5, 6] and training.run.saved_steps == [6]


def test_a_run_that_is_at_its_end_takes_no_step_and_saves_nothing() -> None:
    training = Training()
    before = training.engine.trained_tensors()
    done = RunState(step=3, epoch=1, epoch_step=1)
    assert training.train(3, state=done) == done
    assert not training.stream.asked and not training.run.saved
    assert all(tensor.equal(before[name]) for name, tensor in training.engine.trained_tensors().items())


def test_a_run_resumes_at_the_step_behind_its_state_and_ends_bit_for_bit_as_the_unbroken_one(tmp_path: Path) -> None:
    unbroken = Training()
    unbroken.train(7)
    stopped = Training()
    stopped.run.asks = {3: STOPPED}
    with pytest.raises(StoppedBySignalError):
        stopped.train(7)
    stopped.engine.save(tmp_path)
    resumed = Training()
    resumed.engine.load(tmp_path)
    assert resumed.train(7, state=stopped.run.saved[-1]) == unbroken.run.saved[-1]
    assert resumed.stream.asked == [(1, 1), (2, 0), (3, 0)]
    for theirs, ours in zip(unbroken.run.records[3:], resumed.run.records, strict=True):
        for name in ("step", "epoch", "loss", "learning_rate", "grad_norm", "sample_hash", "domains"):
            assert ours[name] == theirs[name], name
    for name, tensor in unbroken.engine.trained_tensors().items():
        assert resumed.engine.trained_tensors()[name].equal(tensor), name


@pytest.mark.parametrize("status", [STOPPED, INTERRUPTED])
def test_a_signal_in_the_midst_ends_the_run_behind_its_step_with_a_checkpoint(status: int) -> None:
    training = Training()
    training.run.asks = {2: status}
    with pytest.raises(StoppedBySignalError, match="stopped at step 2") as stopped:
        training.train(5)
    assert stopped.value.status == status
    assert training.run.saved_steps == [2] and training.run.logged == [1, 2]
    assert are_close(training.run.weights[0], plain_training(2, 5))
    assert training.stream.num_closed == 1, "its workers end"


def test_a_signal_in_the_last_step_ends_a_run_that_is_whole_with_the_signals_status() -> None:
    training = Training()
    training.run.asks = {4: INTERRUPTED}
    with pytest.raises(StoppedBySignalError, match="stopped at step 4") as stopped:
        training.train(4)
    assert stopped.value.status == INTERRUPTED and set(training.run.saved_steps) == {4}


def test_checkpoints_and_lines_come_as_often_as_the_settings_say_and_at_the_end() -> None:
    training = Training()
    training.train(7, LoopSettings(DOMAINS, log_every=3, save_every=2))
    assert training.run.saved_steps == [2, 4, 6, 7]
    assert training.run.logged == [3, 6, 7]


def test_a_line_has_the_rate_the_loss_and_the_keys_of_its_step() -> None:
    training = Training()
    training.train(4)
    first, second = training.run.records[:2]
    assert [record["learning_rate"] for record in training.run.records] == pytest.approx([0.0, 0.1, 0.075, 0.025])
    expected = torch.cat([token_losses(Bigram(), at) for at in (0, 3, 2, 1)]).mean().item()
    assert first["loss"] == pytest.approx(expected, abs=1e-6)
    assert (first["supervised_tokens"], first["samples"], first["rows"]) == (13, 4, 2)
    assert first["sample_hash"] != second["sample_hash"] and first["seconds"] > 0


def test_what_the_stream_raises_leaves_the_last_whole_step_saved() -> None:
    training = Training()

    def fail(epoch: int, index: int) -> None:
        if (epoch, index) == (1, 0):
            raise UserError("a worker died")

    training.stream.before = fail
    with pytest.raises(UserError, match="a worker died"):
        training.train(5)
    (state,), (weights,) = training.run.saved, training.run.weights
    assert (state.step, state.epoch, state.epoch_step) == (2, 1, 0)
    assert are_close(weights, plain_training(2, 5))


@dataclass
class FailsOnce:
    """``inputs_of`` that raises at one row, after some random numbers were drawn for it."""

    error: Exception
    at: int
    num_rows: int = 0

    def __call__(self, batch: object) -> dict[str, torch.Tensor]:
        self.num_rows += 1
        torch.rand(3)
        if self.num_rows == self.at:
            raise self.error
        return inputs_of(batch)  # type: ignore[arg-type,return-value]


def test_a_raise_between_two_micro_batches_leaves_the_step_before_saved_with_its_random_numbers() -> None:
    states: list[torch.Tensor] = []

    class Run(KeptRun):
        def log(self, record: StepRecord) -> None:
            super().log(record)
            states.append(torch.get_rng_state())

        def save(self, state: RunState) -> None:
            super().save(state)
            states.append(torch.get_rng_state())

    training = Training(objective=Objective(FailsOnce(RuntimeError("a bug"), at=6)))
    training.run = Run(training.engine)
    with pytest.raises(RuntimeError, match="a bug"):
        training.train(5)
    assert training.run.saved_steps == [2] and are_close(training.run.weights[0], plain_training(2, 5))
    _, second, saved = states
    assert saved.equal(second), "what the broken step drew is drawn again when the run goes on"


def test_a_raise_in_the_midst_of_an_update_saves_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training()
    update = training.engine.optimizer.step

    def fail(*_: object) -> None:
        update()
        if len(training.run.records) == 2:
            raise RuntimeError("half of the weights are new")

    monkeypatch.setattr(training.engine.optimizer, "step", fail)
    with pytest.raises(RuntimeError, match="half of the weights are new"):
        training.train(5)
    assert training.run.logged == [1, 2] and not training.run.saved


def test_bad_records_reach_the_run_with_their_step() -> None:
    training = Training()
    training.stream.bad = {1: ["first", "second"]}
    training.train(4)
    assert training.run.bad == ["first", "second"] * 2


def test_too_many_bad_records_end_the_run_behind_a_step_that_is_logged_and_saved() -> None:
    class Run(KeptRun):
        def quarantine(self, bad: Sequence[str]) -> None:
            if bad:
                raise UserError("more than 1 % of general are bad")

    training = Training()
    training.run, training.stream.bad = Run(training.engine), {1: ["bad"]}
    with pytest.raises(UserError, match="more than 1 %"):
        training.train(5)
    assert training.run.logged == [1, 2] and training.run.saved_steps == [2]


def spoil(steps: Sequence[int]) -> Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]:
    """A balance loss that is not a number in these steps of a stream of one row a step."""
    counted = iter(range(1, 100))
    return lambda is_real, _: torch.full((), NAN if next(counted) in steps else 0.0)


def test_a_step_whose_loss_is_not_finite_is_left_out_and_counted() -> None:
    training = Training([[[0, 1]]], Objective(inputs_of, 1.0, spoil([2])))
    training.train(3, LoopSettings(DOMAINS, save_every=1))
    first, second, third = training.run.weights
    assert all(first[name].equal(second[name]) and not third[name].equal(second[name]) for name in first)
    assert [state.nonfinite_steps for state in training.run.saved] == [0, 1, 1]
    assert [state.samples_seen for state in training.run.saved] == [2, 4, 6], "it was seen all the same"
    assert training.run.records[1]["grad_norm"] != training.run.records[1]["grad_norm"]


def test_more_steps_without_a_finite_loss_than_allowed_end_the_run_with_the_names_of_the_last_ones_samples() -> None:
    training = Training([[[0, 1]]], Objective(inputs_of, 1.0, spoil([2, 3])))
    with pytest.raises(UserError) as refused:
        training.train(6, LoopSettings(DOMAINS, save_every=0, max_nonfinite_steps=1))
    for word in ("at step 3, 2 such step(s)", "(allowed: 1)", "sample/2.0.0, sample/2.0.1"):
        assert word in str(refused.value)
    assert training.run.saved_steps == [2] and training.run.logged == [1, 2]


def test_an_engine_that_cannot_skip_ends_at_the_first_such_step_and_saves_the_one_before() -> None:
    training = Training([[[0, 1]]], Objective(inputs_of, 1.0, spoil([2])))
    training.engine.can_skip = False
    with pytest.raises(UserError, match=r"at step 2, 1 such step\(s\) in all \(allowed: 0\)"):
        training.train(6)
    assert training.run.saved_steps == [1] and are_finite(training.run.weights[0])


def test_weights_that_such_an_engine_has_updated_with_a_gradient_that_is_not_finite_are_not_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = Training()
    training.engine.can_skip = False
    update = training.engine.step
    monkeypatch.setattr(training.engine, "step", lambda rates: update(rates) * (0 if not training.run.records else NAN))
    with pytest.raises(UserError, match=r"at step 2, 1 such step"):
        training.train(6)
    assert training.run.logged == [1] and not training.run.saved


def test_a_state_is_measured_behind_each_step_and_saved_where_that_is_asked() -> None:
    measured: list[int] = []

    def validate(state: RunState, meeting: RankErrors) -> bool:
        assert meeting.is_together
        measured.append(state.step)
        return state.step == 2

    training = Training()
    training.train(4, validate=validate)
    assert measured == [1, 2, 3, 4] and training.run.saved_steps == [2, 4]


def test_a_resumed_run_measures_the_state_that_it_was_stopped_at() -> None:
    measured: list[int] = []

    def validate(state: RunState, _: RankErrors) -> bool:
        measured.append(state.step)
        return state.step == 2

    training = Training()
    training.train(3, state=RunState(step=2, epoch=1), validate=validate)
    assert measured == [2, 3] and training.run.saved_steps == [2, 3]


def test_a_signal_while_a_state_is_measured_leaves_it_saved() -> None:
    def validate(state: RunState, _: RankErrors) -> bool:
        if state.step == 2:
            raise StoppedBySignalError("stopped while measuring", STOPPED)
        return False

    training = Training()
    with pytest.raises(StoppedBySignalError, match="while measuring"):
        training.train(4, validate=validate)
    assert training.run.saved_steps == [2]


def test_dropout_is_on_while_it_trains() -> None:
    training = Training()
    training.model.eval()
    training.train(1)
    assert training.model.training


def test_what_cannot_be_saved_is_told_with_what_ended_the_run() -> None:
    class Run(KeptRun):
        def save(self, state: RunState) -> None:
            raise UserError("cannot save: the disk is full")

    training = Training(objective=replace(OBJECTIVE, inputs_of=FailsOnce(RuntimeError("a bug"), at=3)))
    training.run = Run(training.engine)
    with pytest.raises(RuntimeError, match="a bug") as ended:
        training.train(5)
    assert ended.value.__notes__ == ["cannot save: the disk is full"]
