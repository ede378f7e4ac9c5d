"""Candidates scored on held-out data, domain by domain, and the table that tells which is best where."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from llava_moe.files.atomic_write import replace_file

FILE = "pick.json"


@dataclass(frozen=True)
class Candidate:
    """One way to answer, and what it costs.

    Attributes:
        name: for the table.
        place: the folder of a run or adapter; ``None`` for a merge that was not kept.
        losses: mean cross-entropy in nats over a domain's supervised tokens.
    """

    name: str
    place: str | None
    losses: dict[str, float]

    @property
    def mean(self) -> float:
        """Over the domains, each counting alike."""
        return sum(self.losses.values()) / len(self.losses)


@dataclass(frozen=True)
class Picked:
    """All candidates, in the order in which they are shown.

    Attributes:
        notes: what a reader must know of the data.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Candidate:
        """The lowest mean; the first of equals."""
        return min(self.candidates, key=lambda candidate: candidate.mean)

    def best_in(self, domain: str) -> Candidate:
        """The lowest loss on one domain; the first of equals."""
        return min(self.candidates, key=lambda candidate: candidate.losses[domain])

    @property
    def domains(self) -> Sequence[str]:
        """The domains that were scored."""
        return list(self.candidates[0].losses)

    def write(self, folder: Path) -> None:
        """Write ``pick.json``."""
        content = {
            "measure": "mean cross-entropy in nats over the supervised tokens of held-out records",
            "best": self.best.name,
            "best_by_domain": {domain: self.best_in(domain).name for domain in self.domains},
            "candidates": [asdict(candidate) | {"mean": candidate.mean} for candidate in self.candidates],
            "notes": list(self.notes),
        }
        replace_file(folder / FILE, json.dumps(content, indent=1) + "\n")

    def table(self) -> Table:
        """Losses by candidate and domain; the best of each column is starred."""
        table = Table(title="held-out loss, nats a token (* best)", title_justify="left", header_style="bold")
        table.add_column("candidate", overflow="fold")
        for title in (*self.domains, "mean"):
            table.add_column(title, justify="right", overflow="fold")
        for candidate in self.candidates:
            cells = [(candidate.losses[domain], candidate is self.best_in(domain)) for domain in self.domains]
            cells.append((candidate.mean, candidate is self.best))
            shown = [f"{loss:.4f}{'*' if is_best else ' '}" for loss, is_best in cells]
            table.add_row(candidate.name, *shown, style="bold" if candidate is self.best else None)
        return table
