"""``state.json``: written, read back, and told where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.errors import UserError
from llava_moe.train.state import RunState

STATE = RunState(step=12, epoch=1, epoch_step=4, tokens_seen=10**12, samples_seen=48, nonfinite_steps=2)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    STATE.write(tmp_path / "state.json")
    assert RunState.read(tmp_path / "state.json") == STATE
    assert RunState() == RunState(0, 0, 0, 0, 0, 0), "a run begins with nothing"


def test_what_a_later_release_adds_is_read_over(tmp_path: Path) -> None:
    STATE.write(tmp_path / "state.json")
    told = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(told | {"later": [1]}))
    assert RunState.read(tmp_path / "state.json") == STATE


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ('"step": 12', "is damaged ("),
        ('{"step": 12}', "has another shape than it was written in (epoch is missing)"),
        (json.dumps(vars(STATE) | {"step": 1.5}), "(step is a number, not a whole number)"),
        (json.dumps(vars(STATE) | {"step": True}), "(step is true or false, not a whole number)"),
    ],
)
def test_a_damaged_state_is_told_in_one_line_that_names_the_file_and_the_remedy(
    damage: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "state.json"
    path.write_text(damage)
    with pytest.raises(UserError) as refused:
        RunState.read(path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(str(path)) and told in line
    assert line.endswith("put it back, or delete the checkpoint to go on from the one before")


def test_a_state_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"state.json cannot be read \(No such file or directory\)"):
        RunState.read(tmp_path / "state.json")
