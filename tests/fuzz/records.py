"""Records on disk in every form, and their pictures: read one by one, or checked, counted, previewed and trained on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.fuzz.case import Attempt
from tests.fuzz.commands import NUM_PICTURES, TINY, command, write_own_data
from tests.fuzz.texts import ELSEWHERE, FORBIDDEN, OUTSIDE
from tests.fuzz.tree import change_files, copy_tree, mutate_json, mutate_lines, mutate_rows

Write = Callable[[Path, list[dict[str, Any]]], None]
COMMANDS = {
    "data check": ("num_processes=1", "out=checked"),
    "data stats": ("out=counted",),
    "data preview": ("out=seen",),
    "train": ("train.max_steps=1", "out=run", "data.max_bad_share=1"),
}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_packed(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)


def _write_whole(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows))


WRITERS: dict[str, Write] = {
    "train.json": _write_whole,
    "train.jsonl": _write_lines,
    "train.jsonl.gz": _write_packed,
    "train.parquet": _write_table,
}


class Records:
    """A file of records in one of the formats, one or two of its values or a picture changed."""

    name = "records"

    def prepare(self, folder: Path) -> None:
        write_own_data(folder)
        self._good = folder
        self._rows = {"llava": json.loads((folder / "train.json").read_text()), "records": [], "messages": []}
        for row in self._rows["llava"]:
            question, answer = (turn["value"] for turn in row["conversations"])
            turns = [{"role": "user", "text": question}, {"role": "assistant", "text": answer}]
            more = {"source": "own", "domain": "mine", "task": "colour", "split": "train"}
            self._rows["records"].append({"id": row["id"], "images": [row["image"]], "conversations": turns, **more})
            said = [{"role": turn["role"], "content": turn["text"]} for turn in turns]
            self._rows["messages"].append({"messages": said, "images": [row["image"]]})

    def draw(self, random: Random, folder: Path) -> Attempt:
        copy_tree(self._good, folder / "in")
        (folder / "in" / "train.json").unlink()
        Image.new("RGB", (9, 9)).save(folder / OUTSIDE)
        (folder / ELSEWHERE).write_text('[{"id": 1}]')
        kind, name = random.choice(list(self._rows)), random.choice(list(WRITERS))
        path = folder / "in" / name
        WRITERS[name](path, self._rows[kind])
        pictures = sorted((folder / "in" / "pictures").iterdir())
        told = f"{kind} in {name}; " + self._change(random, path, pictures, folder)
        may_not_read = (folder / OUTSIDE, *map(Path, FORBIDDEN))
        if random.random() < 0.75:
            run = lambda: _read_all(path, folder / "in" / "pictures", kind, folder / "cache")  # noqa: E731
            return Attempt(run, f"read {told}", (), may_not_read)
        chosen = random.choice(list(COMMANDS))
        words = (*chosen.split(), *TINY, f"path=in/{name}", "images=in/pictures", *COMMANDS[chosen])
        return Attempt(command(words), f"{' '.join(words)}: {told}", (folder,), may_not_read)

    @staticmethod
    def _change(random: Random, path: Path, pictures: list[Path], above: Path) -> str:
        chance = random.random()
        if chance < 0.2:
            return change_files(random, pictures, above / OUTSIDE)
        if chance < 0.4:
            return change_files(random, [path], above / ELSEWHERE)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(mutate_lines(random, gzip.decompress(path.read_bytes()))))
            return "mutate_lines"
        change = {".json": mutate_json, ".jsonl": mutate_lines, ".parquet": mutate_rows}[path.suffix]
        path.write_bytes(change(random, path.read_bytes()))
        return change.__name__


def _read_all(path: Path, pictures: Path, kind: str, cache: Path) -> int:
    """Every record and every picture, as training reads them."""
    from llava_moe.data.conversation import BadRecord
    from llava_moe.data.images.transform import ImageTransform, open_image
    from llava_moe.data.records import Source
    from llava_moe.data.source import check_image_root, open_records
    from llava_moe.errors import UserError

    transform = ImageTransform(32)
    try:
        source = Source("mine", "mine", str(path), images=str(pictures))
        records = open_records(source, cache)
        check_image_root(source, records)
    except UserError:
        return 2
    records.read(0, len(records))
    for index in range(min(len(records), 4 * NUM_PICTURES)):
        try:
            for image in records[index].images:
                transform(open_image(image, records.image_root))
        except BadRecord:
            continue
    return 0
