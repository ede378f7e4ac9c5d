"""A file that is opened is a regular one: nothing else can make a command wait."""

from __future__ import annotations

import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from llava_moe.files.regular_file import MOST_BYTES, check_regular, open_regular, read_regular


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        check_regular(tmp_path / name)
        assert read_regular(str(tmp_path / name)) == b"content"


def test_everything_else_is_refused_at_once_and_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    wanted = {"pipe": "a named pipe", "link": "a named pipe", "folder": "a folder", "socket": "a socket"}
    places: dict[Path | str, str] = {tmp_path / name: kind for name, kind in wanted.items()}
    for place, kind in {**places, "/dev/zero": "a device"}.items():
        for door in (check_regular, open_regular, read_regular):
            with pytest.raises(OSError, match=kind) as told:
                door(place)
            assert told.value.strerror == f"it is {kind}, not a {'' if kind == 'a folder' else 'regular '}file"
    listening.close()


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_a_hollow_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    hollow = tmp_path / "hollow"
    with hollow.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(OSError, match=r"536,870,913 bytes, more than the 536,870,912 that are read"):
        read_regular(hollow)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 << 20
    hollow.write_bytes(b"four")
    assert read_regular(hollow, most_bytes=4) == b"four"
    with pytest.raises(OSError, match="4 bytes, more than the 3"):
        read_regular(hollow, most_bytes=3)


def test_a_file_that_a_kernel_makes_up_and_has_nothing_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for read in (read_regular, lambda path: open_regular(path).read(4), lambda path: open_regular(path).read()):
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        with monkeypatch.context() as patched:
            patched.setattr("llava_moe.files.regular_file._refuse", lambda mode, path: None)
            patched.setattr(os, "open", lambda path, flags, end=reading: end)
            with pytest.raises(OSError, match="nothing to read now"):
                read("/proc/version")
        os.close(writing)
