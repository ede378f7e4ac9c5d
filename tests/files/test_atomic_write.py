"""Small files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import remove_halves, replace_file, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device; free space"):
        write_atomically(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["numbers.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["file", ".file.PID.tmp"])
def test_a_folder_in_the_place_of_a_file_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name.replace("PID", str(os.getpid()))).mkdir()
    for write in (replace_file, write_atomically):
        with pytest.raises(UserError, match=r"cannot write .*file: a folder lies there; move it away"):
            write(tmp_path / "file", "text")
    assert (tmp_path / name.replace("PID", str(os.getpid()))).is_dir()


def test_what_a_full_disk_refused_is_left_to_the_caller_who_has_more_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "gone" / "file", "text")
    write_atomically(tmp_path / "gone" / "file", "text")
    assert (tmp_path / "gone" / "file").read_bytes() == b"text"


def test_halves_that_a_kill_left_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".numbers.json.4711.tmp", ".notes.tmp", "mine.7.tmp", ".numbers.json"):
        (tmp_path / name).touch()
    remove_halves(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".notes.tmp", "mine.7.tmp", ".numbers.json"}


def test_text_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        replace_file(tmp_path / "file", "\ud800")
    assert not [*tmp_path.iterdir()]
