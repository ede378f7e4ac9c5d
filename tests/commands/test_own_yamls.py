"""Configurations of one's own that would grow without end are named before Hydra reads them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.config.own_yamls import refuse_unbounded
from llava_moe.errors import UserError
from tests.text.test_structured_text import BOMB, MERGES

Refused = Callable[..., str]


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "a: " + "[" * 10_000, "a: " + "{b: " * 10_000])
@pytest.mark.parametrize("place", ["exp/mine.yaml", "data/deeper/mine.yaml", "mine.yaml"])
def test_a_file_that_grows_without_end_is_named_with_its_line(text: str, place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text(text)
    for words in (["--config-dir", str(tmp_path)], [f"--config-dir={tmp_path}"], ["seed=1", "-cd", str(tmp_path)]):
        with pytest.raises(UserError, match=r"mine\.yaml: line \d+: "):
            refuse_unbounded(words)


def test_what_nobody_chose_and_what_is_no_file_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "broken.yaml").write_text("a: [")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "bomb.yaml").write_text(BOMB)
    os.mkfifo(tmp_path / "exp" / "pipe.yaml")
    refuse_unbounded(["--config-dir", str(tmp_path)])
    refuse_unbounded(["--config-dir"])
    refuse_unbounded(["--config-dir", "/nowhere"])


def test_the_command_line_refuses_it(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text(BOMB)
    assert "aliases that make more than" in refused("train", "exp=mine", "--config-dir", str(tmp_path))
    (tmp_path / "exp" / "mine.yaml").unlink()
    os.mkfifo(tmp_path / "exp" / "mine.yaml")
    assert "exp=mine does not exist" in refused("train", "exp=mine", "--config-dir", str(tmp_path))


def test_a_hollow_file_is_named_and_not_read(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "exp").mkdir()
    with (tmp_path / "exp" / "hollow.yaml").open("wb") as file:
        file.truncate(3 << 30)
    line = refused("train", "--config-dir", str(tmp_path))
    assert f"{tmp_path}/exp/hollow.yaml: it has 3,221,225,472 bytes" in line and "move it away" in line


@pytest.mark.parametrize("content", [b"seed: \xff", b"\xff\xfe\0", b"seed: " + b"9" * 5_000])
def test_a_chosen_file_that_cannot_be_read_is_named(content: bytes, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_bytes(b"# @package _global_\n" + content)
    (tmp_path / "exp" / "nobodys.yaml").write_bytes(content)
    line = refused("train", "exp=mine", "scale=demo", "--config-dir", str(tmp_path))
    assert f"{tmp_path}/exp/mine.yaml: " in line and "nobodys" not in line


def test_a_source_without_a_path_is_named(refused: Refused) -> None:
    for words in ([], ["exp=mix_doc", "scale=demo"]):
        assert "data.sources.extra.path must be given" in refused("train", "+data.sources.extra.domain=one", *words)
