"""Held-out records are drawn by seed, group by group, and what cannot be measured is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_moe.analyze.records import HeldOutRecords, draw_records
from llava_moe.data.encode import Encoder
from llava_moe.data.held_out import HeldOutSource
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.data.template import Template
from llava_moe.errors import UserError


@pytest.fixture
def encoder(tokenizer_folder: Path) -> Encoder:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.pad_token = "<unk>"
    image = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image, int)
    return Encoder(tokenizer, Template("v1", ""), ImageTransform(8, "pad"), image, num_image_tokens=4)


def write(
    folder: Path, name: str, num: int, tasks: tuple[str | None, ...] = (None,), lost: tuple[int, ...] = ()
) -> Path:
    """Records about an image each; every third is text alone."""
    records = []
    for number in range(num):
        record: dict[str, object] = {"id": f"{name}{number}", "task": tasks[number % len(tasks)]}
        question = "Is it small?"
        if number % 3:
            record["image"], question = f"{name}{number}.png", f"<image>\n{question}"
            Image.new("RGB", (9, 9), (number, 9, 9)).save(folder / f"{name}{number}.png")
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"Yes number {name} {number}"}]
        records.append({key: value for key, value in record.items() if value is not None} | {"conversations": turns})
    path = folder / f"{name}.json"
    path.write_text(json.dumps(records))
    return path


def held_out(folder: Path, encoder: Encoder, **domains: Path) -> list[HeldOutSource]:
    found = []
    for domain, path in domains.items():
        source = Source(domain, domain, str(path), images=str(folder))
        records = open_records(source, folder / "cache")
        found.append(HeldOutSource(source, records, index_source(source, records, encoder, folder / "cache")))
    return found


def drawn(sources: list[HeldOutSource], encoder: Encoder, **asked: object) -> HeldOutRecords:
    wanted = {"by": "domain", "told": "split val", "samples": 5, "seed": 0, "fewest": 2} | asked
    return draw_records(sources, encoder, **wanted)  # type: ignore[arg-type]


def keys(records: HeldOutRecords, name: str) -> list[str]:
    return [one.key for group in records.groups if group.name == name for one in group.examples]


def test_the_draw_of_a_domain_hangs_on_the_seed_and_on_no_other_domain(tmp_path: Path, encoder: Encoder) -> None:
    paths = {name: write(tmp_path, name, 20) for name in ("a", "b", "c")}
    three = held_out(tmp_path, encoder, **paths)
    first = drawn(three, encoder)
    assert first.names == ("a", "b", "c") and [len(group.examples) for group in first.groups] == [5, 5, 5]
    assert first.group_of.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert keys(drawn(three[1:], encoder), "b") == keys(first, "b")
    assert keys(drawn(three, encoder, samples=3), "b") == keys(first, "b")[:3]
    assert keys(drawn(three, encoder, seed=1), "b") != keys(first, "b")
    assert len(set(keys(drawn(three, encoder, samples=0), "b"))) == 20


def test_tasks_are_groups_across_sources(tmp_path: Path, encoder: Encoder) -> None:
    a = write(tmp_path, "a", 12, ("chart", "table", None))
    b = write(tmp_path, "b", 12, ("table", "flag"))
    records = drawn(held_out(tmp_path, encoder, a=a, b=b), encoder, by="task", samples=0)
    assert {group.name: group.num_there for group in records.groups} == {"chart": 4, "flag": 6, "table": 10}
    assert records.names == ("chart", "flag", "table") and records.num_without_task == 4


def test_a_task_with_too_few_records_is_left_out_and_told(tmp_path: Path, encoder: Encoder) -> None:
    a = write(tmp_path, "a", 13, ("chart", "table", "chart", "table", "chart", "table", "flag"))
    sources = held_out(tmp_path, encoder, a=a)
    records = drawn(sources, encoder, by="task", fewest=3)
    assert records.names == ("chart", "table") and records.too_small == (("flag", 1),)
    assert [example.domain for example in records.examples] == records.group_of.tolist()
    with pytest.raises(UserError, match=r"of the tasks fewer than two have enough: chart has 6 .* and 7 are needed"):
        drawn(sources, encoder, by="task", samples=0, fewest=7)


def test_a_record_whose_image_is_gone_gives_way_to_the_next(tmp_path: Path, encoder: Encoder) -> None:
    sources = held_out(tmp_path, encoder, a=write(tmp_path, "a", 12), b=write(tmp_path, "b", 12))
    before = keys(drawn(sources, encoder, samples=8), "a")
    for path in tmp_path.glob("a*.png"):
        path.unlink()
    records = drawn(sources, encoder, samples=4)
    assert records.groups[0].num_unread > 0 and len(records.groups[0].examples) == 4
    # What is left of the draw stands in its order: those without an image were skipped and no others drawn.
    texts_first = [key for key in before if key in keys(records, "a")]
    assert texts_first and keys(records, "a")[: len(texts_first)] == texts_first
    with pytest.raises(UserError, match=r"domain a has 4 held-out records \(split val\), and 5 are needed"):
        drawn(sources, encoder, samples=0, fewest=5)


def test_one_domain_alone_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    sources = held_out(tmp_path, encoder, a=write(tmp_path, "a", 6))
    with pytest.raises(UserError, match=r"domain a is the only one .* give by=task"):
        drawn(sources, encoder)
    with pytest.raises(UserError, match="no held-out record names a task"):
        drawn(sources, encoder, by="task")


def test_rows_hold_every_record_once_within_their_length(tmp_path: Path, encoder: Encoder) -> None:
    sources = held_out(tmp_path, encoder, a=write(tmp_path, "a", 9), b=write(tmp_path, "b", 9))
    records = drawn(sources, encoder, samples=0)
    lengths = np.array([len(example.input_ids) for example in records.examples])
    rows = records.rows(range(18), tokens_per_row=3 * int(lengths.max()))
    assert [place for row in rows for place in row] == list(range(18)) and len(rows) < 18
    assert all(lengths[list(row)].sum() <= 3 * lengths.max() for row in rows)
    assert records.row(rows[0]).num_samples == len(rows[0])
    assert records.rows(range(2), tokens_per_row=1) == [(0,), (1,)]
