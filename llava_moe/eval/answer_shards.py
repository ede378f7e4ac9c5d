"""Answers while they come: the answers file is the first process's, each other process appends to a part of its own."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer
from llava_moe.eval.files import read_answers
from llava_moe.files.atomic_write import cannot_write


def part_path(path: Path, rank: int) -> Path:
    """Where a process appends: the answers file itself, or ``<benchmark>.answers.part<rank>.jsonl`` beside it."""
    return path if rank == 0 else path.with_name(f"{path.name.removesuffix('.jsonl')}.part{rank}.jsonl")


def other_parts(path: Path) -> list[Path]:
    """The parts that lie beside an answers file, of however many processes."""
    named = re.compile(re.escape(path.name.removesuffix(".jsonl")) + r"\.part[1-9][0-9]*\.jsonl")
    return sorted(one for one in path.parent.glob("*.jsonl") if named.fullmatch(one.name))


def read_parts(path: Path) -> list[Answer]:
    """The answers of the file and its parts, each question's last.

    Raises:
        UserError: a line that is not the last of its file is no answer.
    """
    answers = [answer for one in (path, *other_parts(path)) for answer in read_answers(one)]
    return list({(answer.question_id, answer.asked, answer.model): answer for answer in answers}.values())


def remove_parts(path: Path) -> None:
    """Delete the parts, once the answers file holds all that was in them."""
    for one in other_parts(path):
        one.unlink(missing_ok=True)


def refuse_second_writer(path: Path) -> None:
    """Refuse to begin where another evaluation is appending.

    Raises:
        UserError: one is.
    """
    if path.exists():
        with path.open(encoding="utf-8") as file:
            _lock(file, path)


@contextmanager
def appending(path: Path) -> Iterator[TextIO]:
    """Open a part to append to, closed to other evaluations meanwhile.

    Raises:
        UserError: it cannot be written, or another evaluation is appending.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            _lock(file, path)
            yield file
    except OSError as error:
        raise cannot_write(path, error) from error


def _lock(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{path} is being written by another evaluation: wait for it, or choose another folder with out="
        ) from error
    except OSError:
        return  # a file system without locks


class PartCounter:
    """Counts the answers that the other processes have appended so far."""

    def __init__(self, path: Path, world: int) -> None:
        self._read = {part_path(path, rank): 0 for rank in range(1, world)}
        self._num_lines = 0

    def count(self) -> int:
        """Lines in their parts, reading what is new alone."""
        for path, place in self._read.items():
            try:
                with path.open("rb") as file:
                    file.seek(place)
                    new = file.read()
            except OSError:
                continue  # not begun yet, or on a disk of another machine
            self._read[path] = place + len(new)
            self._num_lines += new.count(b"\n")
        return self._num_lines
