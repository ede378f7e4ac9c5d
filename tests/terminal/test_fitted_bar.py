"""Bars of every command, at every width."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llava_moe.commands.check_console import CheckBar
from llava_moe.commands.eval_progress import EvalProgress
from llava_moe.commands.prepare_progress import PrepareProgress
from llava_moe.terminal.console import VisibleConsole
from llava_moe.terminal.fitted_bar import FittedBar, passing
from tests.terminal_screen import Screen


def drawn(bar: FittedBar, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(bar)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_title_count_and_time_left_stay_at_every_width(width: int) -> None:
    domains = " ".join(f"domain_{number}_of_a_name_of_fifty_characters_in_all_x 1.234" for number in range(20))
    for title in ("demo 2-instruct", "an experiment of a name that is longer than anybody would type it, twice"):
        bar = FittedBar(title, 123_456, status=f"loss 1.234 5,678 tok/s ({domains})")
        bar.done, bar.started = 61_728, bar.started - 7200
        bar.facts = ("2:00:00 gone",)
        first, second = drawn(bar, width)
        assert first.startswith(title[:7]) and "61728/123456" in first and "left 2:00:0" in first
        assert second.startswith("  loss 1.234 5,678 tok/s (") and second.endswith("…")
        assert len(first) < width and len(second) < width
        assert ("━" in first) == (width > 40)
        assert ("gone" in first) == (width > 60)


def test_names_are_shown_as_they_are_and_count_for_their_whole_width() -> None:
    bar = FittedBar("a\rb\x1b[2J", 10, status="loss 1.0 (医学\x07 1.0)")
    first, second = drawn(bar, 40)
    assert first.startswith(r"a\x0db\x1b[2J") and second == r"  loss 1.0 (医学\x07 1.0)"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_bars_of_commands_leave_one_line_and_nothing_behind(width: int) -> None:
    file = io.StringIO()
    console = VisibleConsole(width=width, file=file, force_terminal=True)
    with EvalProgress(console, "a_benchmark_of_a_long_name") as scoring:
        for done in range(0, 101, 10):
            scoring.tell(done, 100)
    with PrepareProgress(console) as preparing:
        preparing.begin("a_recipe_of_a_long_name", 10**12, 0)
        for _ in range(10):
            preparing.advance(10**11, 12_345)
    with CheckBar(console) as checking:
        for what in ("records", "images"):
            for done in range(0, 11):
                checking(what, done, 10)
    screen = Screen(width)
    screen.feed(file.getvalue().replace("\n", "\r\n"))
    assert not "".join(screen.text()), screen.text()
    assert all(name in file.getvalue() for name in ("scoring", "prepari", "images"))


def test_where_nobody_watches_a_bar_writes_nothing() -> None:
    for console in (Console(file=io.StringIO()), Console(file=io.StringIO(), force_terminal=True, quiet=True)):
        with passing(FittedBar("reading", 10), console) as bar:
            bar.tell(5, 10)
        assert not console.file.getvalue()  # type: ignore[attr-defined]
