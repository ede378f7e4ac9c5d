"""Makes the cells of a grid that are not there yet, several at a time; killed and started again it goes on."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava_moe.errors import INTERRUPTED, STOPPED, UserError
from llava_moe.files.atomic_write import cannot_write
from llava_moe.grid.card import (
    Card,
    finished_card,
    is_made,
    left_to_measure,
    read_card,
    refuse_edited,
    refuse_unlike,
    with_measured,
    write_card,
)
from llava_moe.grid.cell import Cell, Grid, Words
from llava_moe.grid.child import CellLock, Child, Start, start_command

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
    """A cell that is being made: what is left to measure, what runs now, and since when."""

    cell: Cell
    card: Card
    lock: CellLock
    left: list[Words]
    words: Words = ()
    child: Child | None = None
    began: float = 0.0
    is_asked_to_stop: bool = False

    @property
    def seconds(self) -> float:
        """What making the run has taken so far."""
        return round(self.card.seconds + time.monotonic() - self.began, 1)


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
            card = self._card_of_whole(cell)
            if card is None:
                self._waiting.append(cell)
            else:
                self._cards[cell.name] = card
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
                card = self._card_of_whole(cell)
                if card is None:
                    self._begin(cell, lock)
                    return True
                lock.drop()  # another has made it meanwhile
                self._waiting.remove(cell)
                self._cards[cell.name] = card
        return False

    def _card_of_whole(self, cell: Cell) -> Card | None:
        """The card of a cell that is there with all that is measured of it."""
        card = read_card(self.folder, cell.name)
        return card if card is not None and is_made(self.folder, card) and not left_to_measure(cell, card) else None

    def _begin(self, cell: Cell, lock: CellLock) -> None:
        try:
            self._refuse_small_disk(cell)
            card = read_card(self.folder, cell.name)
            if card is None or not (self.folder / cell.name).exists():
                card = Card(cell.name, self.grid.settings[cell.name], cell.reads, cell.making(self.folder))
            elif not is_made(self.folder, card):
                card = replace(card, is_finished=False, measured=())
            write_card(self.folder, card)
        except UserError:
            lock.drop()
            raise
        self._waiting.remove(cell)
        work = _Work(cell, card, lock, [*cell.measured])
        self._running.append(work)
        if is_made(self.folder, card):
            work.left = [*left_to_measure(cell, card)]
            self._go_on(work)
        else:
            self._start(work, cell.making(self.folder))

    def _look_after(self, work: _Work) -> None:
        """Take note of a command that has ended, and start the cell's next."""
        if self.is_stopped():
            self._ask_to_stop(work)
        status = None if work.child is None else work.child.poll()
        if status is None:
            return
        work.child = None
        try:
            self._note(work, status)
        except UserError as error:
            self._end(work, Failure(2, str(error), self._log(work)))
            return
        was_asked = self.is_stopped() and (status in (STOPPED, INTERRUPTED) or status < 0)
        if status == 0:
            self._go_on(work)
        else:
            self._end(work, None if was_asked else self._failure(work, status))

    def _note(self, work: _Work, status: int) -> None:
        """Write into the card what a command has come to.

        Raises:
            UserError: the run stands on another base or other data than the cells before, or cannot be read.
        """
        is_measuring = work.card.is_finished
        if status == 0 and is_measuring:
            work.card = with_measured(work.card, work.words)
        elif status == 0:
            card = finished_card(work.card, work.cell, self.folder, work.seconds)
            refuse_unlike([*self._cards.values(), card])
            work.card = card
        elif not is_measuring:
            work.card = replace(work.card, seconds=work.seconds)
        write_card(self.folder, work.card)

    def _go_on(self, work: _Work) -> None:
        if not work.left or self.is_stopped():
            self._end(work, None)
        else:
            words = work.left.pop(0)
            self._start(work, work.cell.measuring(words, self.folder))
            work.words = words

    def _start(self, work: _Work, words: Words) -> None:
        work.words, work.began = words, time.monotonic()
        work.child = self.start(words, self._log(work), work.lock.descriptor)

    def _end(self, work: _Work, failure: Failure | None) -> None:
        cell = work.cell
        self._running.remove(work)
        work.lock.drop()
        if failure is not None:
            self._failed[cell.name] = failure
            self.watcher.failed(cell, failure)
        elif work.card.is_finished and not left_to_measure(cell, work.card):
            self._cards[cell.name] = work.card
            self._made.append(cell.name)
            self.watcher.ended(cell, work.card)

    def _failure(self, work: _Work, status: int) -> Failure:
        log = self._log(work)
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return Failure(status, lines[-1] if lines else "it said nothing", log)

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
            told[work.cell.name] = work.words[0].rpartition(".")[2]
            log = self.folder / work.cell.name / "log.jsonl"
            if not work.card.is_finished and log.is_file():
                num_steps = log.read_bytes().count(b"\n")
                told[work.cell.name] = f"step {num_steps}"
        return told

    def _log(self, work: _Work) -> Path:
        return self.folder / f"{work.cell.name}.log"
