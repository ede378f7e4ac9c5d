"""Benchmarks' files changed at random: each is refused in one line when opened, or asked and scored to its end."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer, Benchmark
from llava_moe.eval.question_hash import question_hashes
from llava_moe.eval.tasks import Places, open_benchmark
from tests.eval.tasks.published import LAYOUTS

VALUES: list[Any] = [None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "\x00", "\x1b[31m", "\ud800"]
VALUES += ["nan", "yes", [], {}, [[]], [None], ["a", None, 1], {"answer": None}, {"bytes": None, "path": None}]
VALUES += [
    {"image": "/etc/passwd"},
    "../../etc/passwd",
    "/dev/zero",
    "http://x/y.png",
    "file:///etc/passwd",
    "9" * 5000,
]
CONTAINERS = [b"", b"PK\3\4xxxx", b"PAR1", b"\x1f\x8b\x08\0", b"{", b"null", b"0", b"\xff\xfe", b"[1]\n", b"\n\n"]
CONTAINERS += [b"[" * 100_000, b'{"a":' * 100_000, b"\x80\x04N."]
COLUMNS = [pa.array([7]), pa.array([float("inf")]), pa.array([True]), pa.array([b"\xff\0"]), pa.array([["a"]])]
COLUMNS += [pa.array([None]), pa.array([{"bytes": b"x", "path": "../a"}]), pa.array([{"image": "/etc/passwd"}])]
PREDICTIONS = ["", "yes", "A", "x" * 1000 + "(" * 200, "\x00\ud800\u202e", "9" * 5000, "A. B. C.", "-1e999", "²", "½"]


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, part in inner for place in places_in(part, (*path, key))]


def change(value: Any, rng: random.Random) -> Any:
    """The value with one part replaced, dropped, doubled or renamed."""
    *outer, last = rng.choice(places_in(value)[1:])
    parent = value
    for key in outer:
        parent = parent[key]
    how = rng.choice(["set", "set", "drop", "double", "rename", "deep"])
    if how == "drop":
        del parent[last]
    elif how == "double" and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif how == "rename" and isinstance(parent, dict):
        parent[rng.choice(["x", "image", "id"])] = parent.pop(last)
    elif how == "deep":
        parent[last] = json.loads("[" * 300 + "]" * 300)
    else:
        parent[last] = copy.deepcopy(rng.choice(VALUES))
    return value


def mutate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    if rng.random() < 0.2:
        at = rng.randrange(len(content))
        damaged = content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
        path.write_bytes(rng.choice([content[:at], damaged, damaged, rng.choice(CONTAINERS)]))
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        number, name = rng.choice(list(enumerate(table.column_names)))
        column = pa.concat_arrays([rng.choice(COLUMNS)] * len(table))
        changed = [table.set_column(number, name, column), table.drop_columns([name]), table.slice(0, 0)]
        pq.write_table(rng.choice([changed[0], *changed, pa.concat_tables([table, table])]), path)
    elif path.suffix == ".json" and content[:1] in b"[{" and b"}\n{" not in content:
        path.write_text(json.dumps(change(json.loads(content), rng)))
    elif path.suffix in (".json", ".jsonl"):
        rows = change([json.loads(line) for line in content.splitlines()], rng)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = content.split(b"\t")
        cells[rng.randrange(len(cells))] = rng.choice([b"", b"9" * 5000, b'"', b"\0", b"A", "٣".encode(), b"\xff"])
        path.write_bytes(b"\t".join(cells))


def ask_and_score(benchmark: Benchmark, rng: random.Random) -> None:
    questions = benchmark.questions()
    question_hashes(questions)
    for prediction in rng.sample(PREDICTIONS, 2):
        answers = {
            question.id: Answer(question.id, prediction, question.references, benchmark.score(question, prediction))
            for question in questions
        }
        benchmark.summarize(answers)
        benchmark.submission(answers)
    for question in questions:
        if question.references:
            benchmark.score(question, benchmark.oracle(question))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_changed_file_is_refused_in_one_line_or_scored_to_its_end(name: str, tmp_path: Path) -> None:
    rng = random.Random(f"{name} 11")
    num_refused = 0
    for number in range(12):
        layout = rng.choice(list(LAYOUTS[name]))
        place = LAYOUTS[name][layout](tmp_path / "data")
        files = [path for path in sorted((tmp_path / "data").rglob("*")) if path.is_file()]
        path = rng.choice([one for one in files if one.suffix not in (".jpg", ".png")])
        mutate(path, rng)
        try:
            benchmark = open_benchmark(name, places=Places(paths={name: str(place)}, cache=tmp_path / "cache"))
        except UserError as error:
            num_refused += 1
            assert "\n" not in str(error), f"case {number}"
        else:
            ask_and_score(benchmark, rng)
        shutil.rmtree(tmp_path / "data")
    assert num_refused
