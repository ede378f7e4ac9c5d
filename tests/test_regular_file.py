"""A file that is opened is a regular one: nothing else can make a command wait."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llava_moe.regular_file import check_regular, open_regular, read_regular


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
    for place, kind in {**{tmp_path / name: kind for name, kind in wanted.items()}, "/dev/zero": "a device"}.items():
        for door in (check_regular, open_regular, read_regular):
            with pytest.raises(OSError, match=kind) as told:
                door(place)
            assert told.value.strerror == f"it is {kind}, not a {'' if kind == 'a folder' else 'regular '}file"
    listening.close()


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")
