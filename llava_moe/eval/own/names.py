"""Which words of ``benchmarks=`` are files, and what their scores are called."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from llava_moe.data.readers.compressed_files import PACKED
from llava_moe.data.readers.files import SUFFIXES
from llava_moe.errors import UserError

TAKEN = ("results", "leaks", "held_out_loss")
"""Names that mean something else: files beside the scores, and the score that is best where it is lowest."""


def is_file(word: str) -> bool:
    """Whether a word of ``benchmarks=`` that names no benchmark is meant as a path: it has a dot or a slash, or is
    there."""
    return "." in word or "/" in word or os.path.exists(os.path.expanduser(word))


def name_of_file(path: str) -> str:
    """What the scores of a file are called: its name without its ending.

    Letters, digits, ``_`` and ``-`` stand as they are; whatever else stands between them becomes one ``_``.

    Raises:
        UserError: nothing is left, or the name means something else beside the scores.
    """
    stem = path.rstrip("/").rpartition("/")[2]
    for endings in (PACKED, SUFFIXES):
        stem = next((stem.removesuffix(end) for end in endings if stem.endswith(end)), stem)
    name = re.sub(r"[^\w-]+", "_", stem).strip("_")
    if not name:
        raise UserError(f"benchmarks: {path}: a file's name names its scores; give it one of letters and digits")
    if name in TAKEN:
        raise UserError(
            f"benchmarks: {path}: a file's name names its scores, and {name} means another thing: rename it"
        )
    return name


def refuse_shared_names(words: Iterable[str], known: Collection[str]) -> None:
    """Refuse files whose scores would be called as those of another benchmark, and overwrite them.

    Args:
        words: of ``benchmarks=``, names and files.
        known: the names that there are.

    Raises:
        UserError: naming both.
    """
    taken: dict[str, str] = {}
    for word in dict.fromkeys(words):
        if word in known or not is_file(word):
            continue
        name = name_of_file(word)
        if name in known:
            raise UserError(f"benchmarks: {word}: {name} is a benchmark that there is already: rename the file")
        if name in taken:
            raise UserError(
                f"benchmarks: the scores of {taken[name]} and {word} would both be called {name}: rename one"
            )
        taken[name] = word
