"""The cells of a figure that are there, found by what they are, with their measures and their cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llava_moe.grid.card import Card, is_made, left_to_measure, read_card
from llava_moe.grid.cell import Cell, Grid
from llava_moe.grid.measured import FILE, Compared, Kind, Measured, compare, read_measured


class Results:
    """What is there of a grid.

    Args:
        folder: of the cells.
    """

    def __init__(self, grid: Grid, folder: Path) -> None:
        self.grid, self.folder = grid, folder
        self.cards: dict[str, Card] = {}
        for cell in grid.cells:
            card = read_card(folder, cell.name)
            if card is not None and is_made(folder, card) and not left_to_measure(cell, card):
                self.cards[cell.name] = card

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Those that are there."""
        return tuple(cell for cell in self.grid.cells if cell.name in self.cards)

    @cached_property
    def measured(self) -> Mapping[str, Measured]:
        """Those that were measured, by name."""
        return {
            cell.name: read_measured(self.folder / cell.name)
            for cell in self.cells
            if (self.folder / cell.name / FILE).is_file()
        }

    def find(self, **labels: Any) -> Mapping[int, Cell]:
        """Seed to the cell whose labels are these and no others."""
        return {
            cell.labels["seed"]: cell
            for cell in self.cells
            if {name: value for name, value in cell.labels.items() if name != "seed"} == labels
        }

    def of(self, **labels: Any) -> Mapping[int, Measured]:
        """Seed to what was measured of the cell of these labels."""
        found = self.find(**labels)
        return {seed: self.measured[cell.name] for seed, cell in found.items() if cell.name in self.measured}

    def level(self, kind: Kind, domains: Sequence[str], **labels: Any) -> Compared | None:
        """How the cells of these labels do, the mean over domains and seeds; None where none is there."""
        return compare(None, self.of(**labels), kind, domains)

    def against(
        self, before: Mapping[str, Any], after: Mapping[str, Any], kind: Kind, domains: Sequence[str]
    ) -> Compared | None:
        """What the cells of ``after`` have more than those of ``before``, paired over items and seeds."""
        return compare(self.of(**before), self.of(**after), kind, domains)

    def file(self, place: str, **labels: Any) -> Mapping[int, Path]:
        """Seed to a file in the cell's folder (``analyze/routing.json``), where it is there."""
        paths = {seed: self.folder / cell.name / place for seed, cell in self.find(**labels).items()}
        return {seed: path for seed, path in paths.items() if path.is_file()}
