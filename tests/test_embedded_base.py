"""The base that ships with the package is what its version says, and other files need another version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_moe import embedded_base
from llava_moe.cli import run
from llava_moe.embedded_base import (
    PART_FILES,
    PART_FOLDERS,
    VERSION_FILE,
    base_folder,
    checked_version,
    fingerprint_whole,
    read_version,
)
from llava_moe.errors import UserError
from tools.demo_assets.base.version import versioned, weights_now


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the base, which the package takes for its own."""
    folder = shutil.copytree(base_folder(), tmp_path / "base")
    monkeypatch.setattr(embedded_base, "base_folder", lambda: folder)
    monkeypatch.setattr("tools.demo_assets.base.version.base_folder", lambda: folder)
    monkeypatch.setattr("llava_moe.model.architecture.base_folder", lambda: folder)
    return folder


def test_the_shipped_files_are_those_of_the_version_that_they_say_they_are() -> None:
    told = "the base's files changed: python -m tools.demo_assets.base.version NUMBER gives them a version of their own"
    found = {part: embedded_base.fingerprint_part(part) for part in PART_FILES}
    here = read_version()
    assert found == here.parts and here.fingerprint == fingerprint_whole(found), told
    assert here.weights == weights_now(), told
    numbers = [here.version, *(one.version for one in here.earlier)]
    assert numbers == sorted(set(numbers), reverse=True)
    assert len({here.fingerprint, *(one.fingerprint for one in here.earlier)}) == len(numbers)


def test_every_file_of_the_base_belongs_to_a_part() -> None:
    known = {f"{PART_FOLDERS[part]}/{name}" for part, names in PART_FILES.items() for name in names}
    there = {path.relative_to(base_folder()).as_posix() for path in base_folder().rglob("*") if path.is_file()}
    assert there == known | {"README.md", VERSION_FILE}


@pytest.mark.parametrize("part", PART_FILES)
def test_a_file_that_changed_without_a_new_version_is_told_with_its_part(part: str, copied: Path) -> None:
    path = copied / PART_FOLDERS[part] / PART_FILES[part][-1]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    for others in PART_FILES.keys() - {part}:
        assert checked_version([others]).version == read_version().version
    with pytest.raises(UserError, match=f"the {part.replace('_', ' ')} is not that of embedded base"):
        checked_version([part])


def test_other_files_are_given_a_higher_number_alone_and_the_one_before_is_remembered(copied: Path) -> None:
    before = read_version()
    with pytest.raises(SystemExit, match="already"):
        versioned(before.version + 1)
    path = copied / "language_model" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True}))
    with pytest.raises(SystemExit, match=f"give {before.version + 1}"):
        versioned(before.version)
    (copied / VERSION_FILE).write_text(json.dumps(versioned(before.version + 1)))
    now = checked_version(PART_FILES)
    assert now.version == before.version + 1 and now.fingerprint != before.fingerprint
    assert str(now.earlier[0]) == str(before)
    assert now.named(before.weights["bf16"]) == str(now)  # the weights are the same: the files are not


def test_doctor_and_ls_say_which_base_is_there(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "model"]) == 0
    assert str(read_version()) in " ".join(capsys.readouterr().out.split())
    assert run(["doctor"]) == 0
    assert str(read_version()) in capsys.readouterr().out
    (copied / "language_model" / "config.json").write_text("{}")
    assert run(["doctor"]) == 2
    assert "the language model is not that of embedded base" in capsys.readouterr().out
