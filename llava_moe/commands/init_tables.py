"""Tables and folders of pictures, which no reader takes: the one command that makes records of them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from llava_moe.data.image_paths import PICTURES
from llava_moe.data.readers.files import holds_records
from llava_moe.data.readers.shapes import EXAMPLE
from llava_moe.shell_words import shell

TABLES = {".csv": "read_csv", ".tsv": "read_table"}
# What tables call their columns, the usual words first.
_COLUMNS = {
    "image": ("image", "image_path", "file_name", "filename", "file", "path", "picture", "photo", "img", "image_id"),
    "question": ("question", "query", "prompt", "instruction", "input"),
    "answer": ("answer", "response", "label", "class", "caption", "text", "output", "target", "description"),
}
_MOST_ENTRIES = 100_000


def table_remedy(domain: str, path: str) -> str | None:
    """What to do with a table, or with a folder of pictures and perhaps a table; None for anything else."""
    place = Path(path).expanduser()
    if place.suffix.lower() in TABLES and place.is_file():
        return _of_table(domain, place, f"{path} is a table")
    if not place.is_dir():
        return None
    names = [entry.name for entry in islice(os.scandir(place), _MOST_ENTRIES)]
    tables = sorted(name for name in names if Path(name).suffix.lower() in TABLES)
    num_pictures = sum(name.lower().endswith(PICTURES) for name in names)
    if any(map(holds_records, names)) or not (tables or num_pictures):
        return None
    if tables:
        what = f"is a folder of {num_pictures:,} pictures and {tables[0]}" if num_pictures else f"holds {tables[0]}"
        return _of_table(domain, place / tables[0], f"{path} {what}")
    return (
        f"{domain}: {path} is a folder of {num_pictures:,} pictures without questions and answers: write a file of "
        f"JSON Lines beside them, a line each such as {EXAMPLE}"
    )


def _of_table(domain: str, table: Path, what: str) -> str:
    reader = TABLES[table.suffix.lower()]
    header = _header(table, "\t" if reader == "read_table" else ",")
    image, question, answer = (_column(header, wanted) for wanted in ("image", "question", "answer"))
    made = table.with_suffix(".jsonl")
    if image is None or answer is None:
        missing = "the picture's file" if image is None else "the answer"
        return (
            f"{domain}: {what}, which is not read, and none of its columns ({', '.join(header)[:200]}) is known to "
            f"hold {missing}: name them image, question and answer, and give it again"
        )
    steps = [f"import pandas; t = pandas.{reader}({str(table)!r}, dtype=str)"]
    renamed = {old: new for old, new in ((image, "image"), (question, "question"), (answer, "answer")) if old}
    steps.append(f"t = t[{[*renamed]}].rename(columns={renamed})")
    if question is None:
        steps.append("t['question'] = 'What is this?'")
    steps.append(f"t.to_json({str(made)!r}, orient='records', lines=True)")
    asked = "" if question is not None else " (the question is the same for all: write yours)"
    return (
        f"{domain}: {what}, which is not read; this makes records of it{asked}: "
        f"{shell('python', '-c', '; '.join(steps))} and then give {shell(f'{domain}={made}')}"
    )


def _header(table: Path, delimiter: str) -> list[str]:
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return next(csv.reader(islice(file, 1), delimiter=delimiter), [])


def _column(header: Sequence[str], wanted: str) -> str | None:
    lower = {name.strip().lower(): name for name in reversed(header)}
    return next((lower[name] for name in _COLUMNS[wanted] if name in lower), None)
