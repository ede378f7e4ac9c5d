"""A fair draw of at most so many records a task, as a filter that raw records pass through in file order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Draw:
    """Which raw records of a set are taken.

    Attributes:
        key: the raw record's field that names its task.
        max_per_task: most records of a task; None for all.
        leave_out: tasks of which none is taken.
        seed: of the draw.
        expected: how many records were published to be taken so; None where nobody says.
    """

    key: str
    max_per_task: int | None = None
    leave_out: tuple[str, ...] = ()
    seed: int = 0
    expected: int | None = None

    def __post_init__(self) -> None:
        if self.max_per_task is not None and self.max_per_task < 1:
            raise ValueError(f"max_per_task must be positive, got {self.max_per_task}")

    def task(self, record: Any) -> str:
        """The task of a raw record; "" where it names none."""
        task = record.get(self.key) if isinstance(record, Mapping) else None
        return "" if task is None else str(task)

    def count(self, records: Iterable[Any]) -> Counter[str]:
        """Records a task: what ``start`` needs to know, from one pass over all files of a part."""
        return Counter(self.task(record) for record in records)

    def start(self, counts: Mapping[str, int]) -> Drawing:
        """A draw from its beginning, to be shown every raw record of a part once, in order."""
        return Drawing(self, dict(counts))


class Drawing:
    """A draw on its way: selection sampling (Knuth, TAOCP volume 2, 3.4.2, algorithm S) for each task by itself.

    A record is taken with probability (still wanted) / (still to come) of its task, so that exactly
    ``min(max_per_task, count)`` are taken, each set of them equally likely, with memory for one count a task.
    """

    def __init__(self, draw: Draw, counts: dict[str, int]) -> None:
        self._draw = draw
        self._to_come = counts
        self._wanted = {
            task: 0 if task in draw.leave_out else min(draw.max_per_task or count, count)
            for task, count in counts.items()
        }
        # A generator a task: what one task holds does not move the draw of another.
        self._generators = {task: random.Random(f"{draw.seed}:{task}") for task in counts}

    def keep(self, record: Any) -> bool:
        """Whether the next record is taken.

        Raises:
            ValueError: more records of a task come than were counted.
        """
        task = self._draw.task(record)
        to_come, wanted = self._to_come.get(task, 0), self._wanted.get(task, 0)
        if to_come < 1:
            raise ValueError(f"more records of task {task!r} come than were counted")
        taken = self._generators[task].random() * to_come < wanted
        self._to_come[task] -= 1
        self._wanted[task] -= taken
        return taken
