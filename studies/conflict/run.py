"""Make the cells of a study that are not there yet, by the command line that anyone has; each adds a line to results.

Killed and started again it goes on: cells that have their line are done, a training that was cut short resumes.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from llava_moe.errors import StoppedBySignalError, UserError
from llava_moe.terminal.console import VisibleConsole
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.train.folder import FolderLock
from studies.conflict.cells import Cell, cells_of
from studies.conflict.make_cell import CellMaker
from studies.conflict.results import CELLS, Result, append_result, read_results
from studies.conflict.study import SHIPPED, read_study


def missing(cells: Sequence[Cell], results: Sequence[Result], folder: Path) -> list[Cell]:
    """The cells without a line.

    Raises:
        UserError: a line is of a cell that the study no longer has, or was made with other settings.
    """
    planned = {cell.name: cell for cell in cells}
    for result in results:
        where = f"{folder / CELLS}: {result.name}"
        if result.name not in planned:
            raise UserError(f"{where} is no cell of this study: give this one a folder of its own with --results")
        if result.settings != planned[result.name].settings:
            raise UserError(f"{where} was made with other settings: give this study a folder of its own with --results")
    done = {result.name for result in results}
    return [cell for cell in cells if cell.name not in done]


def make(cells: Sequence[Cell], maker: CellMaker, results: Path, at_once: int, console: VisibleConsole) -> None:
    """Make cells, several at once, and write each down as it is there; what fails ends those that have not begun.

    Raises:
        UserError: a command failed; what its output ended with stands in the text.
        StoppedBySignalError: a signal asked for a stop.
    """
    bar = FittedBar("cells", len(cells))
    waiting = list(cells)
    running: dict[Future[tuple[dict[str, Any], dict[str, Any]]], Cell] = {}
    failed: Exception | None = None
    with passing(bar, console), ThreadPoolExecutor(at_once) as pool:
        while running or (waiting and failed is None):
            while waiting and failed is None and len(running) < at_once:
                cell = waiting.pop(0)
                running[pool.submit(maker.make, cell)] = cell
            # A signal is answered between two waits at the latest.
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    measured, facts = future.result()
                    append_result(results, cell, measured, facts)
                except (UserError, StoppedBySignalError) as error:
                    failed = failed or error
                    continue
                bar.tell(bar.done + 1, len(cells))
                console.print(f"{cell.name}: {facts['steps']} steps, {facts['seconds']:.0f} s", highlight=False)
    if failed is not None:
        raise failed


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="?", type=Path, default=SHIPPED, help="a yaml (default: the embedded demo's)")
    parser.add_argument("--results", type=Path, default=SHIPPED.with_name("results"), help="where the lines go")
    parser.add_argument("--work", type=Path, default=Path("runs/conflict"), help="where the runs go")
    parser.add_argument("--at-once", type=int, default=1, help="trainings at the same time, a thread each (1)")
    parser.add_argument("--most", type=int, default=None, help="stop after so many cells")
    given = parser.parse_args(words)
    console = VisibleConsole()
    try:
        if given.at_once < 1:
            raise UserError(f"--at-once={given.at_once}: at least one training is made at a time")
        study = read_study(given.study)
        given.results.mkdir(parents=True, exist_ok=True)
        with FolderLock(given.work):
            cells = cells_of(study)
            results = read_results(given.results)
            left = missing(cells, results, given.results)
            console.print(f"{len(cells)} cells, {len(cells) - len(left)} of them there: {given.results}")
            maker = CellMaker(study, given.work, base=results[0].base if results else None)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: maker.stop())
            make(left[: given.most], maker, given.results, given.at_once, console)
    except UserError as error:
        sys.stderr.write(f"conflict: {error}\n")
        return 2
    except StoppedBySignalError as error:
        sys.stderr.write(f"conflict: {error}\n")
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())
