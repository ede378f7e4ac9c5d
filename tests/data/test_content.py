"""Caches answer to what files hold: the same size and time of change prove nothing."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from llava_moe.data.readers import content
from llava_moe.data.readers.content import content_hash
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError


def lines(answer: str) -> str:
    turns = [{"from": "human", "value": "what ?"}, {"from": "gpt", "value": answer}]
    return json.dumps({"id": 1, "conversations": turns})


def restamp(path: Path, text: str) -> None:
    """Other content of the same length with the old time of change, as ``rsync --inplace -t`` leaves it."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("prefix", ["", "file://"])
@pytest.mark.parametrize("waits", [0.0, 2.2])
def test_a_file_changed_within_its_size_and_time_is_read_again(tmp_path: Path, prefix: str, waits: float) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines("red"))
    source = Source("mine", "general", f"{prefix}{path}")
    time.sleep(waits)  # a file that has settled is remembered
    for _ in range(2):
        assert open_records(source, tmp_path / "cache")[0].turns[1].text == "red"
    assert any((tmp_path / "cache").glob("contents/*.json")) == bool(waits)
    restamp(path, lines("tan"))
    assert open_records(source, tmp_path / "cache")[0].turns[1].text == "tan"
    restamp(path, lines("red"))
    assert open_records(source, tmp_path / "cache")[0].turns[1].text == "red"


def test_a_copy_that_takes_a_files_place_is_read(tmp_path: Path) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for one, answer in ((path, "red"), (other, "tan")):
        one.write_text(lines(answer))
        os.utime(one, ns=(10**18, 10**18))
    source = Source("mine", "general", str(path))
    assert open_records(source, tmp_path / "cache")[0].turns[1].text == "red"
    os.replace(other, path)
    assert open_records(source, tmp_path / "cache")[0].turns[1].text == "tan"


def test_a_settled_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(content, "SETTLED_NS", -1)
    first = content_hash(str(path), tmp_path)
    monkeypatch.setattr(content, "hash_of", None)  # reading it again would fail
    assert content_hash(str(path), tmp_path) == first
    (note,) = (tmp_path / "contents").iterdir()
    note.write_text("[]")
    with pytest.raises(TypeError):
        content_hash(str(path), tmp_path)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone: cannot be read \(No such file"):
        content_hash(str(tmp_path / "gone"))


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines("red"))
    source = Source("mine", "general", str(path))
    kept = open_records(source, tmp_path / "cache").path  # type: ignore[union-attr]
    whole = kept.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:-8], b"", b"x" * len(whole)):
        kept.write_bytes(damage)
        assert open_records(source, tmp_path / "cache")[0].turns[1].text == "red"
        assert kept.read_bytes() == whole
