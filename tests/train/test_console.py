"""What a person sees while it trains: loss, speed and time left, in lines or in a bar."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from llava_moe.terminal import fitted_bar
from llava_moe.train import console as console_module
from llava_moe.train.console import TrainingConsole
from llava_moe.train.log import StepRecord


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that console and bar read; it stands still."""
    now = SimpleNamespace(seconds=1000.0)
    time = SimpleNamespace(monotonic=lambda: now.seconds)
    monkeypatch.setattr(console_module, "time", time)
    monkeypatch.setattr(fitted_bar, "time", time)
    return now


def record(step: int, loss: float = 1.0, supervised: int = 10, other: tuple[float, int] | None = None) -> StepRecord:
    domains = {"general": {"loss": loss, "supervised_tokens": supervised}}
    if other is not None:
        domains["medical"] = {"loss": other[0], "supervised_tokens": other[1]}
    return StepRecord({"step": step, "seconds": 0.5, "tokens": 1000, "domains": domains})


def in_lines(num_steps: int, first_step: int = 0) -> tuple[TrainingConsole, io.StringIO]:
    """A console that writes lines, as into a batch system's log."""
    text = io.StringIO()
    return TrainingConsole(Console(file=text, width=40), "pretrain", num_steps, first_step), text


def test_a_line_has_the_mean_loss_over_tokens_of_all_and_by_domain_and_tokens_a_second(
    clock: SimpleNamespace,
) -> None:
    shown, text = in_lines(2)
    shown.write(record(1, loss=1.0, supervised=30))
    assert not text.getvalue(), "ten seconds are not over"
    clock.seconds += 3
    shown.write(record(2, loss=3.0, supervised=10, other=(6.0, 20)))
    # (30 * 1 + 10 * 3 + 20 * 6) / 60 and (30 * 1 + 10 * 3) / 40
    assert text.getvalue() == "pretrain 2/2 loss 3.000 2,000 tok/s (general 1.500 medical 6.000) left 0:00\n"


def test_only_the_last_twenty_records_count() -> None:
    shown, text = in_lines(25)
    for step in range(1, 26):
        shown.write(record(step, loss=100.0 if step <= 5 else 2.0))
    assert "loss 2.000" in text.getvalue()


def test_the_time_left_follows_from_the_steps_of_this_start_alone(clock: SimpleNamespace) -> None:
    shown, text = in_lines(110, first_step=10)
    clock.seconds += 40
    shown.write(record(30))
    # 2 s a step, 80 steps to go.
    assert text.getvalue().endswith(" left 2:40\n") and "pretrain 30/110 " in text.getvalue()


def test_lines_come_at_most_every_ten_seconds_and_for_the_last_step(clock: SimpleNamespace) -> None:
    shown, text = in_lines(30)
    for step in range(1, 31):
        clock.seconds += 3
        shown.write(record(step))
    steps = [int(line.split()[1].partition("/")[0]) for line in text.getvalue().splitlines()]
    assert steps == [4, 8, 12, 16, 20, 24, 28, 30]


def test_scores_have_a_line_of_their_own() -> None:
    shown, text = in_lines(30)
    shown.write_scores(12, {"held_out_loss": 1.5, "held_out_loss.general": 1.25, "demo.exact_match": 0.5})
    assert text.getvalue() == "pretrain 12/30 held-out loss 1.5000 (general 1.2500), demo.exact_match 0.5000\n"


def test_a_stop_that_was_heard_is_told_at_once_where_there_is_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    shown, text = in_lines(30)
    shown.say_stopping("stopping\x1b[2J")
    told = capfd.readouterr().err
    assert told.startswith("llava-moe: stopping") and "\x1b" not in told and told.endswith("\n")
    assert not text.getvalue(), "nothing is printed inside a signal handler"


def on_a_terminal() -> tuple[TrainingConsole, io.StringIO]:
    text = io.StringIO()
    terminal = Console(file=text, width=100, force_terminal=True, color_system=None, legacy_windows=False)
    return TrainingConsole(terminal, "pretrain", 30, 0), text


def test_a_terminal_has_a_bar_and_no_lines(clock: SimpleNamespace) -> None:
    shown, text = on_a_terminal()
    clock.seconds += 20
    shown.write(record(10))
    assert shown.live is not None and shown.bar.done == 10 and shown.bar.facts == ("0:20 gone",)
    assert shown.bar.status == "loss 1.000 2,000 tok/s (general 1.000)"
    shown.close()
    assert "pretrain 10/30 loss" not in text.getvalue() and "loss 1.000 2,000 tok/s" in text.getvalue()


def test_the_notice_of_a_stop_stays_over_the_steps_that_follow_and_gives_way_to_the_numbers_at_the_end(
    capfd: pytest.CaptureFixture[str],
) -> None:
    shown, _ = on_a_terminal()
    shown.write(record(1))
    shown.say_stopping("stopping behind this step")
    shown.write(record(2, loss=3.0))
    assert shown.bar.status == "stopping behind this step" and not capfd.readouterr().err
    shown.close()
    assert shown.bar.status == "loss 2.000 2,000 tok/s (general 2.000)" and not shown.bar.is_notice
