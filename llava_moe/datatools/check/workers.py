"""Tasks over worker processes: results in the order of the tasks, a bounded number under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch.utils.data import Dataset

from llava_moe.data.ordered_prefetch import prefetch_in_order
from llava_moe.errors import UserError

Job = TypeVar("Job")
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers(Generic[Job]):
    """A job that all tasks share, and how many processes work on it; 1 works right here."""

    job: Job
    num_processes: int

    def run(self, work: Callable[[Job, Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        """The result of each task, in their order.

        Raises:
            UserError: as ``work`` does, or a worker died.
        """
        num_workers = min(self.num_processes, len(tasks))
        made = _Made(work, self.job, tasks)
        try:
            for result in prefetch_in_order(made, range(len(tasks)), num_workers if num_workers > 1 else 0, prefetch=4):
                if isinstance(result, UserError):
                    raise result
                yield result
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            raise UserError(
                "a worker process died, out of memory perhaps: run again with a smaller num_processes="
            ) from error


class _Made(Dataset[Any]):
    """Task number to its result, or to the ``UserError`` that it raised: the loader would wrap that in a traceback."""

    def __init__(self, work: Callable[[Any, Any], Any], job: Any, tasks: Sequence[Any]) -> None:
        self.work, self.job, self.tasks = work, job, tasks

    def __getitem__(self, number: int) -> Any:
        try:
            return self.work(self.job, self.tasks[number])
        except UserError as error:
            return error
