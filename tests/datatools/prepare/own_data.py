"""A data set of the tests' own: its recipe page, its raw files, and words that prepare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.readers.raw import base64_text, encoded, save, turns, write_lines

PAGE = """
from llava_moe.datatools.prepare.subsample import Draw
from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="{name}",
    title="a set of the tests' own",
    source="nobody/{name}",
    licence="CC0",
    get=("fetch {name} here",),
    domain="general",
    format="{format}",
    parts=({parts},),
    images={images!r},
    address={address!r},
    draw={draw},
    notes=("its count is an assumption",),
)
"""


def write_page(
    folder: Path,
    name: str = "own",
    format: str = "llava",
    parts: str = 'Part("train", "train.jsonl", 40)',
    images: str | None = "images",
    address: str | None = None,
    draw: str = "None",
) -> Path:
    """The page of a recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    values = {"name": name, "format": format, "parts": parts, "images": images, "address": address, "draw": draw}
    path.write_text(PAGE.format(**values))
    return path


def record(number: int, **other: Any) -> dict[str, Any]:
    """A LLaVA record: by turns with an image file, with base64, and of text alone."""
    told: dict[str, Any] = {"id": f"r{number}", "conversations": turns(f"What is {number}?", "red " * (1 + number % 7))}
    if number % 3 != 2:
        told["image"] = f"{number}.jpg" if number % 3 == 0 else base64_text(number)
        told["conversations"][0]["value"] = "<image>\n" + told["conversations"][0]["value"]
    return told | {"task_name": f"task{number % 2}"} | other


def write_records(folder: Path, num: int, name: str = "train.jsonl", start: int = 0) -> list[dict[str, Any]]:
    """A raw file of ``num`` records with their image files."""
    records = [record(number) for number in range(start, start + num)]
    for number in range(start, start + num, 1):
        if number % 3 == 0:
            save(folder / "images" / f"{number}.jpg", encoded(number))
    write_lines(folder / name, records)
    return records


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; of the lock only that it is there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder, as JSON."""
    told = json.loads((folder / "manifest.json").read_text())
    assert isinstance(told, dict)
    return told
