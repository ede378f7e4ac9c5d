"""Tables of text, which no reader takes: the one command that makes records of them, with the standard library."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from llava_moe.text.shell_words import shell

DIALECTS = {".csv": "excel", ".tsv": "excel-tab"}
"""What the standard library calls a table of such an ending."""
# What tables call their columns, the usual words first.
_COLUMNS = {
    "image": ("image", "image_path", "file_name", "filename", "file", "path", "picture", "photo", "img", "image_id"),
    "question": ("question", "query", "prompt", "instruction", "input"),
    "answer": ("answer", "response", "label", "class", "caption", "text", "output", "target", "description"),
}
_WHAT = "What is this?"


def records_of_table(table: Path, key: str | None = None) -> str:
    """What to do with a table: the command that writes conversations beside it, or the columns that it lacks.

    Args:
        key: before the ``=`` where the records' file is to be given; None: the file alone is named.
    """
    dialect = DIALECTS[table.suffix.lower()]
    try:
        header = _header(table, dialect)
    except (OSError, csv.Error) as error:
        return f"its columns cannot be read ({getattr(error, 'strerror', None) or error}): write it as JSON Lines"
    image, question, answer = (_column(header, wanted) for wanted in _COLUMNS)
    # A table of questions and answers alone is one of texts.
    if answer is None or (image is None and question is None):
        missing = "the picture's file" if image is None else "the answer"
        return (
            f"none of its columns ({', '.join(header)[:200]}) is known to hold {missing}: name them image, question "
            "and answer, and give it again"
        )
    made = table.with_suffix(".jsonl")
    asked = "" if question is not None else " (the question is the same for all: write yours)"
    place = str(made) if key is None else f"{key}={made}"
    return (
        f"this makes records of it{asked}: {shell('python', '-c', _program(table, made, image, question, answer))} "
        f"and then give {shell(place)}"
    )


def _program(table: Path, made: Path, image: str | None, question: str | None, answer: str) -> str:
    """Python in a line. It overwrites nothing, and has no backslash of its own, which shells quote badly."""
    shown = "" if image is None else "'<image>' + "
    asked = repr(f"<image>{_WHAT}") if question is None else f"{shown}row[{question!r}]"
    images = "" if image is None else f", 'images': [row[{image!r}]]"
    turns = f"[{{'role': 'user', 'content': {asked}}}, {{'role': 'assistant', 'content': row[{answer!r}]}}]"
    return (
        f"import csv, json; made = open({str(made)!r}, 'x', encoding='utf-8'); "
        f"rows = csv.DictReader(open({str(table)!r}, newline='', encoding='utf-8-sig'), "
        f"dialect={DIALECTS[table.suffix.lower()]!r}); "
        f"[print(json.dumps({{'messages': {turns}{images}}}), file=made) for row in rows]"
    )


def _header(table: Path, dialect: str) -> list[str]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(islice(file, 1), dialect=dialect), [])


def _column(header: Sequence[str], wanted: str) -> str | None:
    lower = {name.strip().lower(): name for name in reversed(header)}
    return next((lower[name] for name in _COLUMNS[wanted] if name in lower), None)
