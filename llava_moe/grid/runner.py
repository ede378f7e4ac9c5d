"""Makes the cells of a grid that are not there yet, several at a time; killed and started again it goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava_moe.errors import INTERRUPTED, STOPPED, UserError
from llava_moe.eval.files import cannot_write
from llava_moe.grid.card import Card, finished_card, is_made, read_card, refuse_edited, refuse_unlike, write_card
from llava_moe.grid.cell import Cell, Grid, Words
from llava_moe.grid.child import CellLock, Child, Start, start_command
from llava_moe.own_files import read_text

_SMALLEST_ROOM = 50_000_000
"""Bytes that must be free before the first cell, of whose size nothing is known."""
_PATIENCE = 0.05
_SECONDS_BETWEEN_TELLING = 1.0


@dataclass(frozen=True)
class Failure:
    """Why a cell is not there: the last line of what its command said, and where all of it stands."""

    status: int
    last_line: str
    log: Path


@dataclass(frozen=True)
class Outcome:
    """What became of the cells, each by its name.

    Attributes:
        found: those that were there.
        made: those made now, in the order in which they ended.
        not_run: those that were not begun, and the cell that they need and that failed.
        is_stopped: whether a signal ended the work; what it cut short, and what had not begun, is in none of these.
    """

    found: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    failed: Mapping[str, Failure] = field(default_factory=dict)
    not_run: Mapping[str, str] = field(default_factory=dict)
    is_stopped: bool = False


class Watcher:
    """Is told what happens; this one keeps quiet."""

    def begun(self, num_found: int, num_cells: int) -> None:
        """So many of the cells are there."""

    def running(self, cells: Mapping[str, str]) -> None:
        """These cells are being made; each with where it stands, in words."""

    def ended(self, cell: Cell, card: Card) -> None:
        """A cell is there."""

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A cell could not be made."""


@dataclass
class _Work:
    """A cell that is being made: what is left to run, what runs, and how long it took so far."""

    cell: Cell
    card: Card
    lock: CellLock
    left: list[Words]
    began: float
    child: Child | None = None
    is_asked_to_stop: bool = False

    @property
    def seconds(self) -> float:
        return self.card.seconds + time.monotonic() - self.began


class Runner:
    """Makes the cells of a grid in a folder.

    Args:
        folder: of the runs, a folder each, with a card (``NAME.json``) and what its commands said (``NAME.log``).
        at_once: cells at a time, a thread each.
        is_stopped: asked again and again; once it says yes, what runs is asked to save and end.
        start: starts a command.
        free: bytes free on the disk of a folder.
    """

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        at_once: int = 1,
        is_stopped: Callable[[], bool] = lambda: False,
        watcher: Watcher | None = None,
        start: Start = start_command,
        free: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        self.grid, self.folder, self.at_once = grid, folder, at_once
        self.is_stopped, self.watcher, self.start, self.free = is_stopped, watcher or Watcher(), start, free
        self._cards: dict[str, Card] = {}
        self._waiting: list[Cell] = []
        self._running: list[_Work] = []
        self._made: list[str] = []
        self._failed: dict[str, Failure] = {}
        self._not_run: dict[str, str] = {}
        self._elsewhere: list[str] = []

    def run(self) -> Outcome:
        """Make what is not there. A cell that fails is told, what needs it is not begun, and the rest goes on.

        Raises:
            UserError: a run that is there was made by other words or stands on another base or other data, or the disk
                has no room for the next cell; nothing more was begun, and what ran has come to its end.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        refuse_edited(self.grid, self.folder)
        for cell in self.grid.cells:
            card = read_card(self.folder, cell.name)
            if card is not None and is_made(self.folder, card):
                self._cards[cell.name] = card
            else:
                self._waiting.append(cell)
        refuse_unlike(self._cards.values())
        found = tuple(self._cards)
        self.watcher.begun(len(found), len(self.grid.cells))
        trouble = self._work()
        if trouble is not None:
            raise trouble
        return Outcome(found, tuple(self._made), self._failed, self._not_run, self.is_stopped())

    def _work(self) -> UserError | None:
        """Go on until nothing runs and nothing can be begun; what keeps the next cell from being begun comes back."""
        trouble: UserError | None = None
        told = -_SECONDS_BETWEEN_TELLING
        try:
            while True:
                for work in [*self._running]:
                    self._look_after(work)
                try:
                    while trouble is None and len(self._running) < self.at_once and not self.is_stopped():
                        if not self._begin_next():
                            break
                except UserError as error:
                    trouble = error
                if not self._running and (trouble is not None or not self._waiting or self.is_stopped()):
                    return trouble
                if time.monotonic() - told >= _SECONDS_BETWEEN_TELLING:
                    told = time.monotonic()
                    self.watcher.running(self._standing())
                time.sleep(_PATIENCE)
        finally:
            for work in self._running:  # nothing is left to run on where this ends by an error
                self._ask_to_stop(work)
                work.lock.drop()

    def _begin_next(self) -> bool:
        """Begin the next cell whose needs are there and that no one else makes; False where there is none now.

        Raises:
            UserError: the disk has no room for it.
        """
        self._elsewhere = []
        for cell in [*self._waiting]:
            if lost := [name for name in cell.needs if name in self._failed or name in self._not_run]:
                self._waiting.remove(cell)
                self._not_run[cell.name] = lost[0]
            elif all(name in self._cards for name in cell.needs):
                lock = CellLock(self.folder / f".{cell.name}.lock")
                if not lock.take():
                    self._elsewhere.append(cell.name)
                    continue
                card = read_card(self.folder, cell.name)
                if card is None or not is_made(self.folder, card):
                    self._begin(cell, lock)
                    return True
                lock.drop()  # another has made it meanwhile
                self._waiting.remove(cell)
                self._cards[cell.name] = card
        return False

    def _begin(self, cell: Cell, lock: CellLock) -> None:
        try:
            self._refuse_small_disk(cell)
            commands = cell.commands(self.folder)
            before = read_card(self.folder, cell.name)
            has_begun = before is not None and (self.folder / cell.name).exists()
            seconds = before.seconds if before is not None and has_begun else 0.0
            card = Card(cell.name, self.grid.settings[cell.name], commands, seconds=seconds)
            write_card(self.folder, card)
        except UserError:
            lock.drop()
            raise
        self._waiting.remove(cell)
        self._running.append(_Work(cell, card, lock, list(commands), time.monotonic()))
        self._look_after(self._running[-1])

    def _look_after(self, work: _Work) -> None:
        """Start a cell's next command where the one before has ended; end the cell with its last, or with a failure."""
        if self.is_stopped():
            self._ask_to_stop(work)
        if work.child is not None:
            status = work.child.poll()
            if status is None:
                return
            work.child = None
            if status != 0:
                self._end(work, status)
                return
        if work.left and not self.is_stopped():
            work.child = self.start(work.left.pop(0), self._log(work), work.lock.descriptor)
        else:
            self._end(work, 0)

    def _end(self, work: _Work, status: int) -> None:
        cell = work.cell
        self._running.remove(work)
        try:
            if status == 0 and not work.left:
                card = finished_card(work.card, cell, self.folder, work.seconds)
                refuse_unlike([*self._cards.values(), card])
                write_card(self.folder, card)
                self._cards[cell.name] = card
                self._made.append(cell.name)
                self.watcher.ended(cell, card)
                return
            write_card(self.folder, replace(work.card, seconds=round(work.seconds, 1)))
            was_asked = self.is_stopped() and (status in (0, STOPPED, INTERRUPTED) or status < 0)
            if not was_asked:
                lines = [line for line in read_text(self._log(work), "look at it").splitlines() if line.strip()]
                self._fail(cell, Failure(status, lines[-1] if lines else "it said nothing", self._log(work)))
        except UserError as error:
            self._fail(cell, Failure(2, str(error), self._log(work)))
        finally:
            work.lock.drop()

    def _fail(self, cell: Cell, failure: Failure) -> None:
        self._failed[cell.name] = failure
        self.watcher.failed(cell, failure)

    def _ask_to_stop(self, work: _Work) -> None:
        if work.child is not None and not work.is_asked_to_stop and work.child.poll() is None:
            work.is_asked_to_stop = True
            work.child.terminate()

    def _refuse_small_disk(self, cell: Cell) -> None:
        """Refuse to begin a cell that the disk has no room for, as far as the cells that are there tell."""
        largest = max([_SMALLEST_ROOM, *(card.num_bytes for card in self._cards.values())])
        needed = largest * (1 + len(self._running))
        free = self.free(self.folder)
        if free < needed:
            raise UserError(
                f"{self.folder}: its disk has {free / 1e9:.2f} GB free, and {cell.name}, with what runs, may take "
                f"{needed / 1e9:.2f} GB: free space and run the same command again, which goes on"
            )

    def _standing(self) -> dict[str, str]:
        """Each cell that is being made, and where it stands: ``step 120``, or which command runs."""
        told = dict.fromkeys(self._elsewhere, "made by another process")
        for work in self._running:
            place = len(work.card.commands) - len(work.left) - 1
            told[work.cell.name] = work.card.commands[place][0].rpartition(".")[2]
            log = self.folder / work.cell.name / "log.jsonl"
            if place == 0 and log.is_file():
                num_steps = log.read_bytes().count(b"\n")
                told[work.cell.name] = f"step {num_steps}"
        return told

    def _log(self, work: _Work) -> Path:
        return self.folder / f"{work.cell.name}.log"
