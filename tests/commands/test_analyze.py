"""The command ``llava-moe analyze``: what is there, and what it says to words that lead nowhere."""

from __future__ import annotations

import pytest

from llava_moe.cli import run
from llava_moe.commands.table import ANALYZE_COMMANDS
from tests.commands.conftest import Refusal


def test_alone_it_lists_the_instruments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze"]) == 0
    told = capsys.readouterr().out
    assert all(name in told and command.summary in told for name, command in ANALYZE_COMMANDS.items())


def test_each_instrument_has_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in ANALYZE_COMMANDS.items():
        assert run(["analyze", name, "--help"]) == 0
        assert command.usage in capsys.readouterr().out


def test_an_unknown_instrument_is_told_with_the_nearest(refused: Refusal) -> None:
    assert "did you mean interference?" in refused("analyze", "interferense", "run=x")


def test_a_run_must_be_named_and_there(refused: Refusal) -> None:
    assert "needs run=" in refused("analyze", "interference")
    assert "nosuch does not exist" in refused("analyze", "interference", "run=nosuch")
    assert "did you mean samples" in refused("analyze", "interference", "run=x", "sample=3")
    assert "checkpoint=first" in refused("analyze", "interference", "run=x", "checkpoint=first")
