"""The index says what encoding will find, is kept, and is made again when anything that decides it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llava_moe.data import source_index as lengths
from llava_moe.data.conversation import record_key
from llava_moe.data.encode import Encoder
from llava_moe.data.records import Source
from llava_moe.data.source import ArrowRecords, open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.errors import UserError


def record(number: int, image: bool, *answers: str) -> dict[str, object]:
    turns = []
    for answer in answers:
        turns += [{"from": "human", "value": f"what is {number} ?"}, {"from": "gpt", "value": answer}]
    if image:
        turns[0]["value"] += " <image>"
    made: dict[str, object] = {"id": f"r{number}", "conversations": turns}
    return made | ({"image": f"{number}.jpg"} if image else {})


RECORDS = [
    record(0, True, "a cat"),
    record(1, False, "yes", "no " * 60),
    record(2, True, " "),
    record(3, False, "no " * 90),
    record(4, True, "red", "blue", "the cat"),
    {"id": "r5"},
]


@pytest.fixture
def mine(tmp_path: Path, write_json: Callable[..., Path], image_folder: Path) -> tuple[Source, ArrowRecords]:
    source = Source("mine", "general", str(write_json(RECORDS)), images=str(image_folder))
    records = open_records(source, tmp_path / "cache")
    assert isinstance(records, ArrowRecords)
    return source, records


def same(one: SourceIndex, other: SourceIndex) -> bool:
    arrays = ("rows", "lengths", "supervised", "num_images", "keys", "image_ids")
    facts = ("num_records", "num_cut", "bad")
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in arrays
    ) and all(getattr(one, name) == getattr(other, name) for name in facts)


@pytest.mark.parametrize("chunk", [512, 2, 1])
def test_the_index_says_what_encoding_finds(
    mine: tuple[Source, ArrowRecords],
    make_encoder: Callable[..., Encoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    monkeypatch.setattr(lengths, "CHUNK", chunk)
    source, records = mine
    encoder = make_encoder(system="", max_length=80)
    seen: list[tuple[int, int]] = []
    index = index_source(source, records, encoder, tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert index.rows.tolist() == [0, 1, 4] and index.num_records == 6 and index.num_cut == 1
    for place, row in enumerate(index.rows.tolist()):
        text = encoder.encode_text(records[row])
        assert index.lengths[place] == len(text.input_ids) <= 80
        assert index.supervised[place] == (text.labels != -100).sum() > 0
        assert index.num_images[place] == text.num_images
        assert index.keys[place].tobytes().hex() == record_key(records[row])
    assert [(bad.index, bad.id, bad.reason, bad.source, bad.domain) for bad in index.bad] == [
        (2, "r2", "empty_answer", "mine", "general"),
        (3, "r3", "too_long", "mine", "general"),
        (5, "r5", "not_a_conversation", "mine", "general"),
    ]
    assert seen[-1] == (6, 6) and len(seen) == -(-6 // chunk)


def test_the_index_is_kept_and_read_back_without_the_records(
    mine: tuple[Source, ArrowRecords],
    make_encoder: Callable[..., Encoder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, records = mine
    made = index_source(source, records, make_encoder(), tmp_path / "cache")
    monkeypatch.setattr(lengths, "_build", None)
    assert same(index_source(source, records, make_encoder(), tmp_path / "cache"), made)


def test_what_decides_the_index_makes_it_anew(
    mine: tuple[Source, ArrowRecords],
    make_encoder: Callable[..., Encoder],
    tmp_path: Path,
    legacy_tokenizer: object,
    image_folder: Path,
) -> None:
    source, records = mine
    cache = tmp_path / "cache"
    encoders = [
        make_encoder(),
        make_encoder(max_length=200),
        make_encoder(max_length=200, over_length="drop"),
        make_encoder(num_image_tokens=6),
        make_encoder(system=""),
        make_encoder(tokenizer=legacy_tokenizer),
    ]
    for encoder in encoders:
        index_source(source, records, encoder, cache)
    renamed = replace(source, name="other")
    index_source(renamed, ArrowRecords(renamed, records.path), encoders[0], cache)
    assert len(list(cache.glob("index-*.npz"))) == 7
    for encoder in encoders:
        index_source(source, records, make_encoder(size=16), cache)
        index_source(source, records, encoder, cache)
    assert len(list(cache.glob("index-*.npz"))) == 7, "pixels do not decide it"


def test_a_damaged_index_is_made_anew(
    mine: tuple[Source, ArrowRecords], make_encoder: Callable[..., Encoder], tmp_path: Path
) -> None:
    source, records = mine
    made = index_source(source, records, make_encoder(), tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob("index-mine-*.npz")
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no archive at all"):
        path.write_bytes(broken)
        assert same(index_source(source, records, make_encoder(), tmp_path / "cache"), made)
        assert path.stat().st_size == len(whole)
    encoder = make_encoder()
    for place in range(0, len(whole), 5):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x11]) + whole[place + 1 :])
        assert same(index_source(source, records, encoder, tmp_path / "cache"), made), place


def test_a_source_without_a_usable_record_says_why(
    tmp_path: Path, write_json: Callable[..., Path], make_encoder: Callable[..., Encoder]
) -> None:
    source = Source("mine", "general", str(write_json([record(2, False, " "), record(3, False, "no " * 90)])))
    records = open_records(source, tmp_path / "cache")
    with pytest.raises(UserError, match=r"none of 2 records is usable \(.*too_long: .*empty_answer: ") as caught:
        index_source(source, records, make_encoder(system="", max_length=70), tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    mine: tuple[Source, ArrowRecords], make_encoder: Callable[..., Encoder], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file where the cache folder should be")
    with pytest.raises(UserError, match="taken: cannot be written"):
        index_source(*mine, make_encoder(), tmp_path / "taken")
