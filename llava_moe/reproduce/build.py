"""Builds a figure's grid: stage 1 once a seed, trainings that start from it, compositions of their adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.grid.cell import Cell, Grid, Words, chain
from llava_moe.reproduce.setup import Setup

_MEASURE = "llava_moe.commands.measure_items"


class Build:
    """Collects the cells of a figure.

    Attributes:
        setup: the figure at its scale and seeds.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._cells: dict[str, Cell] = {}

    def grid(self) -> Grid:
        """All cells, seed by seed: what is there after any of them is a smaller grid of fewer seeds."""
        by_seed = sorted(self._cells.values(), key=lambda cell: self.setup.seeds.index(cell.labels["seed"]))
        return Grid(f"{self.setup.paper} {self.setup.figure}", tuple(by_seed))

    def train(
        self,
        model: str,
        words: Sequence[str],
        domains: Sequence[str],
        seed: int,
        *,
        on: str = "",
        more: Sequence[Words] = (),
        is_measured: bool = True,
        **labels: Any,
    ) -> str:
        """Add a training of stage 2, and stage 1 of its seed; gives its name, which made of its labels.

        Args:
            model: how the figure calls this way of training; a part of the name, as are ``labels`` that it adds.
            words: of ``llava-moe train``: the adapter, and what else differs.
            domains: trained on, of the setup's; each source gives the setup's samples whatever stands beside it.
            on: how the figure calls these domains; else they are joined.
            more: commands that measure it beyond the figure's own, such as ``("analyze", "routing")``.
            is_measured: False: neither scored nor measured on held-out records.
        """
        setup = self.setup
        on = on or ("mix" if tuple(domains) == setup.domains else "+".join(domains)).replace("+", "_")
        caps = [f"data.sources.{name}.cap={num}" for domain in domains for name, num in setup.samples[domain].items()]
        all_words = (*setup.words, *setup.both, f"seed={seed}", f"domains=[{','.join(domains)}]", *caps, *words)
        return self._add(
            Cell(
                name=self._name_of_run(model, on, *labels.values(), seed=seed),
                words=all_words,
                start=self.stage1(seed),
                measured=(*(self.measured() if is_measured else ()), *more),
                labels={"model": model, "on": on, **labels, "seed": seed},
            )
        )

    def compose(
        self,
        model: str,
        words: Sequence[str],
        experts: Sequence[str],
        seed: int,
        *,
        on: str,
        more: Sequence[Words] = (),
        **labels: Any,
    ) -> str:
        """Add a composition of cells by ``llava-moe compose``; gives its name.

        Args:
            words: of ``llava-moe compose``, all of them but for ``experts=`` and ``out=``.
            experts: names of cells.
        """
        # A merge trains on nothing, and records its sources' files in place of the records it read.
        is_merge = any(word.startswith("method=") and word != "method=mole" for word in words)
        return self._add(
            Cell(
                name=self._name_of_run(model, on, *labels.values(), seed=seed),
                words=(*words, f"seed={seed}"),
                command="compose",
                reads="merge" if is_merge else "gates",
                experts=tuple(experts),
                measured=(*self.measured(), *more),
                labels={"model": model, "on": on, **labels, "seed": seed},
            )
        )

    def stage1(self, seed: int) -> str:
        """The cell that those of a seed start from, added by the first that asks."""
        stages = [
            Cell(
                name=_name("stage1", *([number] if number > 1 else []), seed=seed),
                words=(*words, *self.setup.both, f"seed={seed}"),
                reads=f"stage 1, {number}",
                labels={"model": "stage 1", "on": str(number), "seed": seed},
            )
            for number, words in enumerate(self.setup.stage1, start=1)
        ]
        return [self._add(cell) for cell in chain(stages)][-1]

    def measured(self) -> tuple[Words, ...]:
        """The commands that measure every cell: its answers scored, then item by item."""
        return ("eval", *self.setup.eval), (_MEASURE, self.setup.measures.as_word())

    def _name_of_run(self, *parts: object, seed: int) -> str:
        return _name(*parts, *filter(None, [self.setup.runs_called]), seed=seed)

    def _add(self, cell: Cell) -> str:
        there = self._cells.setdefault(cell.name, cell)
        if (there.words, there.start, there.experts) != (cell.words, cell.start, cell.experts):
            raise ValueError(f"two cells of {self.setup.figure} are called {cell.name}; give one of them a label")
        return cell.name


def _name(*parts: object, seed: int) -> str:
    return "-".join([*(str(part) for part in parts), f"seed{seed}"])


def models_of(setup: Setup) -> Mapping[str, Mapping[str, Any]]:
    """The axis ``models`` of a setup: name to its label, its words, and what else a figure says of it.

    Raises:
        UserError: the yaml has no such axis.
    """
    return setup.axis("models", {str: {"label": str, "words": [str]}})


def note_of_hard(setup: Setup) -> tuple[str, ...]:
    """Where the released code's router stands, if its runs are not among those of this scale."""
    if "llava_mole_hard" in models_of(setup):
        return ()
    return ("router=hard, as released, stands beside it in Figs. 1 and 6 at this scale, and at scale=full here too.",)
