"""A folder of files as programs write them, copied, and one or two of them changed in a way that fits them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.fuzz.pictures import mutate_picture
from tests.fuzz.places import misplace
from tests.fuzz.raw_bytes import mutate_bytes
from tests.fuzz.tensors import mutate_tensors
from tests.fuzz.texts import hostile_text
from tests.fuzz.values import mutate, write

Change = Callable[[Random, bytes], bytes]


def change_files(random: Random, files: Sequence[Path], outside: Path) -> str:
    """Change one to two of the files where they are; returns what was done, for people.

    Args:
        outside: a file that nobody gave, to be linked to.
    """
    told = []
    files = [path for path in files if path.is_file()]
    for path in random.sample(files, k=min(len(files), random.choice((1, 1, 1, 2)))):
        chance = random.random()
        if chance < 0.2:
            others = [one for one in files if one != path and one.is_file()]
            told.append(f"{path.name}: {misplace(random, path, others, outside)}")
            continue
        change = CHANGES.get(path.suffix)
        if change is None or chance < 0.35:
            change = mutate_bytes
        path.write_bytes(change(random, path.read_bytes()))
        told.append(f"{path.name}: {change.__name__}")
    return ", ".join(told)


def mutate_json(random: Random, data: bytes) -> bytes:
    """A JSON file; some hold JSON Lines under its name."""
    if data.startswith(b"{") and data.find(b"\n{") > 0:
        return mutate_lines(random, data)
    return _bytes(write(mutate(random, json.loads(data))))


def mutate_rows(random: Random, data: bytes) -> bytes:
    """A Parquet file: its rows changed as far as Arrow has types for what they become."""
    table = pq.read_table(io.BytesIO(data))
    rows = mutate(random, table.to_pylist())
    stream = io.BytesIO()
    try:
        pq.write_table(pa.Table.from_pylist(rows), stream)
    except (pa.ArrowException, TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return mutate_bytes(random, data)
    return stream.getvalue()


def mutate_cells(random: Random, data: bytes) -> bytes:
    """Lines of cells between tabs: a cell changed, a cell too many, a line taken away."""
    lines = [line.split("\t") for line in data.decode().split("\n")]
    cells = random.choice(lines)
    kind = random.randrange(5)
    if kind == 0:
        cells.append(hostile_text(random))
    elif kind == 1:
        cells.pop(random.randrange(len(cells)))
    elif kind == 2:
        lines.remove(cells)
    else:
        place = random.randrange(len(cells))
        cut = random.randint(0, len(cells[place]))
        cells[place] = random.choice((cells[place][:cut], "")) + hostile_text(random)
    return _bytes("\n".join("\t".join(line) for line in lines))


def mutate_yaml(random: Random, data: bytes) -> bytes:
    """A YAML file."""
    return _bytes(write(mutate(random, yaml.safe_load(data), is_yaml=True)))


def mutate_lines(random: Random, data: bytes) -> bytes:
    """A JSON Lines file: one line changed, doubled, moved or taken away."""
    lines: list[Any] = data.decode().splitlines()
    if not lines:
        return mutate_bytes(random, data)
    place = random.randrange(len(lines))
    kind = random.randrange(8)
    if kind == 0:
        lines.insert(random.randint(0, len(lines)), lines[place])
    elif kind == 1:
        lines.insert(random.randint(0, len(lines)), lines.pop(place))
    elif kind == 2:
        del lines[place]
    elif kind == 3:
        changed = mutate_bytes(random, lines[place].encode())
        return b"\n".join([*(line.encode() for line in lines[:place]), changed, *_encoded(lines[place + 1 :])]) + b"\n"
    else:
        lines[place] = write(mutate(random, json.loads(lines[place])))
    return _bytes("\n".join(lines) + random.choice(("\n", "\n", "", "\n\n")))


def copy_tree(source: Path, target: Path) -> list[Path]:
    """Copy a folder; returns the files of the copy in order."""
    shutil.copytree(source, target, symlinks=True)
    return sorted(path for path in target.rglob("*") if path.is_file())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _encoded(lines: list[str]) -> list[bytes]:
    return [line.encode() for line in lines]


CHANGES: dict[str, Change] = {
    ".json": mutate_json,
    ".jsonl": mutate_lines,
    ".yaml": mutate_yaml,
    ".safetensors": mutate_tensors,
    ".parquet": mutate_rows,
    ".tsv": mutate_cells,
    ".txt": mutate_cells,
    **dict.fromkeys((".png", ".jpg"), mutate_picture),
}
