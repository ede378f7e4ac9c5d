"""Where a command writes: judged at once, and never in the midst of files that are not a run's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.runs.out_folder import refuse_foreign, refuse_unwritable
from tests.commands.conftest import Refusal


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def taken(tiny_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with places in it that no run can have."""
    here = tmp_path / "here"
    (here / "notes").mkdir(parents=True)
    (here / "notes" / "todo.txt").write_text("mine")
    (here / "file").write_text("mine")
    (here / "dangling").symlink_to(here / "nowhere")
    os.mkfifo(here / "pipe")
    monkeypatch.chdir(here)
    return here


def test_a_run_never_mixes_with_other_files(taken: Path, refused: Refusal, tiny_words: list[str]) -> None:
    before = {name: None if name == "pipe" else content for name, content in contents(taken).items()}
    for place in ("notes", ".", "/", "file", "file/below", "/dev/null", "dangling", "pipe"):
        for words in (tiny_words, []):  # one stage, and the two of the demo
            line = refused("train", *words, f"out={place}")
            assert line.startswith(f"llava-moe: out={place}: "), line
            assert "choose" in line
    assert {name: None if name == "pipe" else content for name, content in contents(taken).items()} == before


def test_no_command_writes_where_no_folder_can_be(taken: Path, refused: Refusal, tiny_words: list[str]) -> None:
    commands = [
        *([*words, *tiny_words] for words in (["plan"], ["data", "check"], ["data", "stats"], ["data", "preview"])),
        ["data", "prepare", "recipe=pathvqa", "downloads=notes"],
        ["eval", "run=nowhere"],
    ]
    for words in commands:
        for place in ("file", "file/below", "/dev/null", "pipe"):
            line = refused(*words, f"out={place}")
            assert line.startswith(f"llava-moe: out={place}: "), line


def test_a_folder_of_ours_or_an_empty_one_is_free(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned" / "plan.json").write_text("{}")
    (tmp_path / "redirected").mkdir()
    (tmp_path / "redirected" / "slurm-17.out").write_text("queued")
    for name in (".lock", ".config.json"):
        (tmp_path / name[1:]).mkdir()
        (tmp_path / name[1:] / name).write_text("")
    (tmp_path / "copied" / "checkpoints").mkdir(parents=True)
    (tmp_path / "copied" / "config.yaml").write_text("")
    for place in ("new", "new/below", "empty", "planned", "redirected", "lock", "config.json", "copied"):
        refuse_foreign(tmp_path / place)
    (tmp_path / "staged" / "1-pretrain").mkdir(parents=True)
    refuse_foreign(tmp_path / "staged", ["1-pretrain", "2-instruct"])
    with pytest.raises(UserError, match="1-pretrain lies in it"):
        refuse_foreign(tmp_path / "staged")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(UserError, match="nothing can be written"):
        refuse_unwritable(tmp_path / "closed" / "new")


def test_a_place_is_judged_before_torch_is_loaded() -> None:
    code = (
        "import sys; from llava_moe.cli import run; "
        "status = run(['train', 'scale=demo', 'exp=mix_doc', 'out=/dev/null']); "
        "sys.exit(10 + status + ('torch' in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 12


def test_a_lock_that_is_no_file_is_named(tmp_path: Path, refused: Refusal, tiny_words: list[str]) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / ".lock")
    assert "it is a named pipe, not a regular file" in refused("train", *tiny_words, f"out={tmp_path / 'run'}")


def test_quotes_alone_are_no_folder(refused: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare = ("data", "prepare", "recipe=pathvqa", "downloads=x")
    for words in (("train",), ("reproduce", "paper=mixlora", "figure=2"), prepare, ("eval", "run=x")):
        for value in ("''", '""', "' '"):
            assert "out=" in (line := refused(*words, f"out={value}")) and "give text, such as a path" in line
    assert not [*tmp_path.iterdir()]
