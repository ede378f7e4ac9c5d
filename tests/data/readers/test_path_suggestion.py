"""A mistyped path is answered with the one that was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_moe.data.quarantine_filter import read_list
from llava_moe.data.readers.files import find_raw
from llava_moe.data.readers.path_suggestion import near_place
from llava_moe.errors import UserError
from llava_moe.runs.own_questions import image_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("questions.jsonl", "quarantine.jsonl", "picture"):
        (tmp_path / name).touch()
    return tmp_path


def test_a_path_that_is_not_there_names_the_nearest_that_is(home: Path) -> None:
    with pytest.raises(UserError, match=r"no file qestions\.jsonl \(did you mean questions\.jsonl\?\); check path"):
        find_raw("qestions.jsonl")
    with pytest.raises(UserError, match=rf"did you mean {home}/questions\.jsonl\?"):
        find_raw(f"{home}/question.jsonl")
    with pytest.raises(UserError, match=r"no file other\.json; check path"):
        find_raw("other.json")
    with pytest.raises(UserError, match=r"quarantin\.jsonl: cannot be read .*\(did you mean quarantine\.jsonl\?\)"):
        read_list(Path("quarantin.jsonl"))


def test_where_a_folder_is_meant_no_file_is_named(home: Path) -> None:
    with pytest.raises(UserError, match=r"images=pictre: no such folder \(did you mean pictures\?\)"):
        image_folders("images", "pictre", ["questions.jsonl"])
    assert near_place(Path("pictur")) == Path("picture")
    assert near_place(Path("nowhere/pictures")) is None
