"""``exp=conflict``: what it refuses in one line."""

from __future__ import annotations

from tests.commands.conftest import Refusal


def test_a_share_that_counts_no_whole_colors_and_data_without_conventions_are_one_line(refused: Refusal) -> None:
    assert "conflict=0.3: it counts whole colors" in refused("train", "exp=conflict", "conflict=0.3")
    assert "add data=conflict" in refused("train", "exp=demo", "conflict=0.5")
    assert "conflict=2" in refused("train", "exp=conflict", "conflict=2")
