"""The runner over a command that costs nothing: order, failure, resume, kill, edited and deleted cells, a full disk."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llava_moe.errors import UserError
from llava_moe.grid.card import Card, read_card
from llava_moe.grid.cell import Cell, Grid, chain
from llava_moe.grid.child import CellLock, Child
from llava_moe.grid.runner import Outcome, Runner, Watcher

FAKE = Path(__file__).with_name("fake_cell.py")
SCORED = (("eval", "benchmarks=[demo]"),)


def start_fake(words: Sequence[str], log: Path, lock: int) -> Child:
    with log.open("ab") as output:
        # -S -E: the start of the interpreter is all that it costs.
        command = [sys.executable, "-S", "-E", str(FAKE), *words]
        return subprocess.Popen(command, stdout=output, stderr=output, pass_fds=(lock,), start_new_session=True)


def cell(name: str, *words: str, start: str | None = None, **more: Any) -> Cell:
    return Cell(name, words, start=start, **more)


def grid_of(*cells: Cell) -> Grid:
    return Grid("a grid", cells)


def run(grid: Grid, folder: Path, **more: Any) -> Outcome:
    return Runner(grid, folder, start=start_fake, **more).run()


def order(folder: Path) -> list[str]:
    return (folder / "order.txt").read_text().splitlines()


def test_a_cell_begins_when_what_it_needs_is_there_and_is_measured_at_its_end(tmp_path: Path) -> None:
    grid = grid_of(
        cell("start-seed0"),
        cell("lora-seed0", start="start-seed0", measured=SCORED),
        cell("composed", command="compose", experts=("lora-seed0",)),
    )
    outcome = run(grid, tmp_path, at_once=3)
    assert outcome.made == ("start-seed0", "lora-seed0", "composed")
    assert order(tmp_path) == ["train start-seed0", "train lora-seed0", "eval lora-seed0", "compose composed"]
    card = read_card(tmp_path, "lora-seed0")
    assert card is not None
    assert card.command == ("train", f"init_from={tmp_path / 'start-seed0'}", f"out={tmp_path / 'lora-seed0'}")
    assert card.measured == SCORED
    assert json.loads((tmp_path / "lora-seed0" / "eval.json").read_text()) == [
        *SCORED[0],
        f"run={tmp_path / 'lora-seed0'}",
    ]
    assert (card.base, card.data, card.commit, card.steps) == ("b", {"general": "d"}, "c", 3)
    composed = read_card(tmp_path, "composed")
    assert composed is not None and composed.command[1] == f"experts=[{tmp_path / 'lora-seed0'}]"


def test_a_cell_that_is_there_is_not_run_again_and_a_deleted_one_alone_is(tmp_path: Path) -> None:
    grid = grid_of(cell("start"), cell("one", start="start"), cell("two", start="start"))
    run(grid, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json")}
    assert run(grid, tmp_path) == Outcome(found=("start", "one", "two"))
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json")} == before
    subprocess.run(["rm", "-r", str(tmp_path / "start")], check=True)
    assert run(grid, tmp_path).made == ("start",)
    assert order(tmp_path) == ["train start", "train one", "train two", "train start"]


def test_a_failed_cell_is_told_what_needs_it_is_not_run_and_the_rest_goes_on(tmp_path: Path) -> None:
    grid = grid_of(
        cell("bad", "fail=model.path=x: there is no such model"),
        cell("after", start="bad"),
        cell("later", start="after"),
        cell("good"),
    )
    outcome = run(grid, tmp_path)
    assert outcome.made == ("good",)
    assert outcome.failed["bad"].last_line == "llava-moe: model.path=x: there is no such model"
    assert outcome.failed["bad"].log.read_text().startswith("some lines before")
    assert outcome.not_run == {"after": "bad", "later": "after"}
    assert run(grid, tmp_path).failed.keys() == {"bad"}, "it is tried again"


class StopsAfter:
    """Says stop once a file has so many lines."""

    def __init__(self, log: Path, num_lines: int) -> None:
        self.log, self.num_lines, self.has_said = log, num_lines, False

    def __call__(self) -> bool:
        self.has_said |= self.log.exists() and self.log.read_text().count("\n") >= self.num_lines
        return self.has_said


def test_a_stop_lets_what_runs_save_and_the_same_grid_goes_on(tmp_path: Path) -> None:
    grid = grid_of(cell("long", "steps=40", "sleep=0.02", measured=SCORED), cell("next"))
    log = tmp_path / "long" / "log.jsonl"
    outcome = run(grid, tmp_path, is_stopped=StopsAfter(log, 2))
    assert outcome == Outcome(is_stopped=True)
    num_steps = log.read_text().count("\n")
    assert 2 <= num_steps < 40
    card = read_card(tmp_path, "long")
    assert card is not None and card.seconds > 0 and not card.is_finished
    assert run(grid, tmp_path).made == ("long", "next")
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [*range(40)]
    finished = read_card(tmp_path, "long")
    assert finished is not None and finished.seconds > card.seconds


def test_a_cell_whose_maker_was_killed_is_waited_for_and_not_made_twice(tmp_path: Path) -> None:
    """Its command lives on, and holds the lock that it inherited."""
    grid = grid_of(cell("long", "steps=10", "sleep=0.03"))
    lock = CellLock(tmp_path / ".long.lock")
    assert lock.take()
    words = grid.cells[0].making(tmp_path)
    orphan = start_fake(words, tmp_path / "long.log", lock.descriptor)
    lock.drop()
    assert run(grid, tmp_path).made == ("long",)
    assert orphan.poll() == 0
    assert order(tmp_path) == ["train long", "train long"], "the second found it finished"
    assert (tmp_path / "long" / "log.jsonl").read_text().count("\n") == 10


def test_two_who_make_one_grid_share_its_cells(tmp_path: Path) -> None:
    grid = grid_of(*(cell(f"cell{number}", "sleep=0.02") for number in range(4)))
    first = subprocess.Popen([sys.executable, "-c", RUN_IT, str(tmp_path), *(one.name for one in grid.cells)])
    while not (tmp_path / "order.txt").exists():
        time.sleep(0.02)
    outcome = run(grid, tmp_path)
    assert first.wait(60) == 0
    assert sorted(order(tmp_path)) == [f"train cell{number}" for number in range(4)]
    assert not outcome.failed


RUN_IT = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(FAKE.parents[2])!r})
from tests.grid.test_runner import cell, grid_of, run
run(grid_of(*(cell(name, "sleep=0.02") for name in sys.argv[2:])), Path(sys.argv[1]))
"""


def test_a_run_whose_words_were_edited_is_refused_and_other_cells_may_come(tmp_path: Path) -> None:
    grid = grid_of(cell("start", "steps=2"), cell("one", "steps=2", "bytes=5", start="start"))
    run(grid, tmp_path)
    edited = grid_of(grid.cells[0], cell("one", "steps=2", "bytes=6", start="start"))
    with pytest.raises(UserError, match=r"one was made by other words than a grid has now: bytes=5 there, bytes=6 ask"):
        run(edited, tmp_path)
    started_otherwise = grid_of(cell("start", "steps=3"), grid.cells[1])
    subprocess.run(["rm", "-r", str(tmp_path / "start")], check=True)
    with pytest.raises(UserError, match=r"one was made by other words .* what it starts from"):
        run(started_otherwise, tmp_path)
    more = grid_of(*grid.cells, cell("two", start="start"))
    assert run(more, tmp_path).made == ("start", "two")
    subprocess.run(["rm", "-r", str(tmp_path / "one")], check=True)
    assert run(edited, tmp_path).made == ("one",)


def test_two_grids_share_a_cell_and_each_measures_its_own(tmp_path: Path) -> None:
    """What is there is not measured again, but what was measured otherwise is, with all that reads it."""
    routing = ("analyze", "routing")
    first = grid_of(cell("one", measured=SCORED))
    second = grid_of(cell("one", measured=(*SCORED, routing)))
    third = grid_of(cell("one", measured=(("eval", "limit=3"), ("analyze", "interference"), routing)))
    for grid, expected in [
        (first, ["train one", "eval one"]),
        (second, ["analyze one"]),
        (first, []),
        (second, []),
        (third, ["eval one", "analyze one", "analyze one"]),
        (second, ["eval one", "analyze one"]),
        (grid_of(cell("one", measured=(("analyze", "interference"),))), []),
    ]:
        (tmp_path / "order.txt").unlink(missing_ok=True)
        run(grid, tmp_path)
        assert (order(tmp_path) if (tmp_path / "order.txt").exists() else []) == expected


def test_one_instrument_looks_at_several_checkpoints_of_a_cell(tmp_path: Path) -> None:
    early, last = ("analyze", "interference", "checkpoint=60"), ("analyze", "interference")
    grid = grid_of(cell("one", measured=(early, last)))
    assert run(grid, tmp_path).made == ("one",)
    assert run(grid, tmp_path) == Outcome(found=("one",))
    closer = grid_of(cell("one", measured=((*early, "samples=64"), last)))
    assert run(closer, tmp_path).made == ("one",)
    card = read_card(tmp_path, "one")
    assert card is not None and card.measured == closer.cells[0].measured, "written over, each in its place"


@pytest.mark.parametrize(
    ("word", "told"), [("base=c", "stands on the base c, one on b"), ("data=e", "general: e and d")]
)
def test_cells_of_another_base_or_other_data_are_not_set_beside_each_other(
    word: str, told: str, tmp_path: Path
) -> None:
    other = cell("other", "data=x", reads="captions")
    outcome = run(grid_of(cell("one"), cell("two", word), other, cell("three")), tmp_path)
    assert outcome.made == ("one", "other", "three")
    assert told in outcome.failed["two"].last_line
    run(grid_of(cell("two", word)), tmp_path)
    with pytest.raises(UserError, match=told):
        run(grid_of(cell("one"), cell("two", word)), tmp_path)


def test_the_disk_is_looked_at_before_each_cell_and_what_runs_comes_to_its_end(tmp_path: Path) -> None:
    grid = grid_of(cell("one", "bytes=60000000"), cell("two"), cell("three"))
    free: Callable[[Path], int] = lambda _: 55_000_000  # noqa: E731
    with pytest.raises(UserError, match=r"0\.06 GB free, and two, with what runs, may take 0\.06 GB: free space"):
        run(grid, tmp_path, free=free)
    assert order(tmp_path) == ["train one"]
    with pytest.raises(UserError, match=r"three, with what runs, may take 0\.12 GB"):
        run(grid, tmp_path, free=lambda _: 100_000_000, at_once=2)
    assert order(tmp_path) == ["train one", "train two"]
    assert run(grid, tmp_path).made == ("three",)


def test_one_cell_brings_what_it_needs_and_no_more(tmp_path: Path) -> None:
    grid = grid_of(cell("start"), cell("one", start="start"), cell("two", start="start"))
    assert run(grid.only(["one"]), tmp_path).made == ("start", "one")
    with pytest.raises(UserError, match=r"only=twoo: a grid has no such cell \(did you mean two\?\)"):
        grid.only(["twoo"])


def test_a_watcher_is_told_what_happens(tmp_path: Path) -> None:
    told: list[Any] = []

    class Noting(Watcher):
        def begun(self, num_found: int, num_cells: int) -> None:
            told.append((num_found, num_cells))

        def ended(self, cell: Cell, card: Card) -> None:
            told.append((cell.name, card.steps))

        def failed(self, cell: Cell, failure: Any) -> None:
            told.append((cell.name, failure.last_line))

    run(grid_of(cell("one"), cell("two", "fail=no")), tmp_path, watcher=Noting())
    assert told == [(0, 2), ("one", 3), ("two", "llava-moe: no")]


def test_a_damaged_card_is_one_line(tmp_path: Path) -> None:
    grid = grid_of(cell("one"))
    run(grid, tmp_path)
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(UserError, match=r"one\.json is damaged .* delete it and the cell's folder"):
        run(grid, tmp_path)


def test_a_grid_that_makes_no_sense_is_our_fault() -> None:
    for cells, told in [
        ((cell("a"), cell("a")), "two cells are called a"),
        ((cell("a/b"),), "cannot be a cell's name"),
        ((cell("a", start="b"), cell("b")), "a needs b, which does not stand before it"),
    ]:
        with pytest.raises(ValueError, match=told):
            grid_of(*cells)


def test_a_chain_starts_each_from_the_one_before() -> None:
    first, second, third = chain([cell("a"), cell("b"), cell("c")])
    assert [one.start for one in (first, second, third)] == [None, "a", "b"]
