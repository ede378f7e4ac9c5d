"""Tables of text: one content for the page and for terminals of any width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

_WIDEST_LABEL = 24
_GAP = 2


@dataclass(frozen=True)
class TextTable:
    """Cells as text. ``emphasis`` says of each row whether it is a sum; the first column is the label."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    emphasis: tuple[bool, ...]
    is_left: tuple[bool, ...]


def rich_tables(table: TextTable, width: int) -> list[Table]:
    """The table for a console of ``width`` cells: columns that do not fit go on in another table below."""
    label = min(_WIDEST_LABEL, max(cell_len(row[0]) for row in (table.header, *table.rows)))
    groups: list[list[int]] = [[]]
    room = width - label
    for place in range(1, len(table.header)):
        needed = _GAP + max(cell_len(row[place]) for row in (table.header, *table.rows))
        if needed > room and groups[-1]:
            groups.append([])
            room = width - label
        groups[-1].append(place)
        room -= needed
    return [_rich(table, places, label) for places in groups]


def _rich(table: TextTable, places: Sequence[int], label: int) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column(table.header[0], min_width=label, max_width=label, overflow="fold")
    for place in places:
        is_left = table.is_left[place]
        shown.add_column(
            table.header[place], justify="left" if is_left else "right", no_wrap=not is_left, overflow="fold"
        )
    for row, is_sum in zip(table.rows, table.emphasis, strict=True):
        cells = [Text(row[0]), *(Text(row[place]) for place in places)]
        shown.add_row(*cells, style="bold" if is_sum else None)
    return shown
