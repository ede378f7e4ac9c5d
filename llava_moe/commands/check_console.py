"""What ``data check`` shows in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from rich.console import Console
from rich.table import Table

from llava_moe.datatools.check.fault_kinds import KINDS
from llava_moe.datatools.check.run_check import Checked
from llava_moe.datatools.check.table import KindRow, kind_rows, labels_of
from llava_moe.terminal.fitted_bar import FittedBar, passing
from llava_moe.text.escape_control import visible

MOST_COLUMNS = 3


def show(console: Console, checked: Checked, notes: Sequence[str]) -> None:
    """Print the table of kinds, then what takes a line each."""
    labels, rows = labels_of(checked), kind_rows(checked)
    opened = f"{checked.num_opened:,} different images"
    if checked.num_opened < checked.num_distinct:
        opened = f"{checked.num_opened:,} of {checked.num_distinct:,} different images"
    console.print(
        f"{checked.num_records:,} records of {len(labels)} sources read, {opened} opened in "
        f"{sum(checked.seconds.values()):.0f} s",
        soft_wrap=True,
    )
    if rows:
        console.print(_table(labels, rows))
    elif not checked.troubles:
        console.print("nothing was found")
    for trouble in checked.troubles:
        severity = KINDS[trouble.kind].severity
        console.print(f"{severity}: {trouble.label}: {trouble.kind}: {visible(trouble.detail)}", soft_wrap=True)
    for (label, name), known in checked.repairs.items():
        expected = "" if known.repair.expected is None else f" of about {known.repair.expected:,}"
        console.print(
            f"known: {label}: {name}: {known.count:,} images{expected}: {known.repair.fault}; {known.repair.remedy}",
            soft_wrap=True,
        )
    for note in notes:
        console.print(note, soft_wrap=True)


def _table(labels: Sequence[str], rows: Sequence[KindRow]) -> Table:
    """Kinds by sources; where sources are many, each kind names those with the most of it."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("", overflow="fold")
    is_wide = len(labels) > MOST_COLUMNS
    for label in ["in all"] if is_wide else labels:
        table.add_column(label, justify="right", overflow="fold")
    table.add_column("of", overflow="fold")
    if is_wide:
        table.add_column("where", overflow="fold")
    for row in rows:
        counts = (row.total,) if is_wide else row.counts
        cells = [f"{count:,}" if count else "·" for count in counts]
        where = [_where(labels, row.counts)] if is_wide else []
        style = {"fault": "bold", "listed": "", "note": "dim"}[row.kind.severity]
        table.add_row(row.kind.name, row.kind.severity, *cells, row.kind.unit, *where, style=style)
    return table


def _where(labels: Sequence[str], counts: Sequence[int]) -> str:
    most = sorted(zip(counts, labels, strict=True), key=lambda pair: -pair[0])
    named = [f"{label} {count:,}" for count, label in most if count]
    more = f", {len(named) - MOST_COLUMNS} more" if len(named) > MOST_COLUMNS else ""
    return ", ".join(named[:MOST_COLUMNS]) + more


class CheckBar:
    """The progress bar. It starts with the first step: its own thread must not be there when workers fork."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: FittedBar | None = None
        self.drawn = ExitStack()

    def __enter__(self) -> CheckBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.drawn.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        if self.bar is None or self.bar.title != f"  {what}":
            self.drawn.close()
            self.bar = FittedBar(f"  {what}", total)
            self.drawn.enter_context(passing(self.bar, self.console))
        self.bar.done = done
        if done == total:
            self.drawn.close()
