"""Two real ranks whose image features are kept train what one process trains that runs its tower at every step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.distributed.conftest import Launch
from tests.distributed.test_ranks import assert_equal_runs, one_process, spread, words

__all__ = ["one_process", "words"]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.mark.parametrize(("kind", "stage"), [("memory", 2), ("disk", 2), ("disk", 3)])
def test_two_ranks_with_kept_features_equal_one_process_without(
    kind: str, stage: int, words: list[str], launch: Launch, one_process: Path, tmp_path: Path
) -> None:
    kept = [*words, f"model.cache_features={kind}"]
    launch("ranks", [*kept, *spread(stage)], tmp_path / "run", tmp_path)
    assert_equal_runs(one_process, tmp_path / "run")


def test_kept_features_change_no_bit_of_what_two_ranks_train(words: list[str], launch: Launch, tmp_path: Path) -> None:
    lines = {}
    for kind in ("off", "memory", "disk"):
        launch("ranks", [*words, *spread(2), f"model.cache_features={kind}"], tmp_path / kind, tmp_path)
        records = [json.loads(line) for line in (tmp_path / kind / "log.jsonl").read_text().splitlines()]
        lines[kind] = [(one["loss"], one["grad_norm"], one["domains"]) for one in records]
    assert lines["off"] == lines["memory"] == lines["disk"]
