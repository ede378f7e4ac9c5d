"""Two real ranks whose image features are kept train what one process trains that runs its tower at every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.distributed.conftest import Launch
from tests.distributed.test_ranks import assert_equal_runs, one_process, spread, words

__all__ = ["one_process", "words"]
pytestmark = [pytest.mark.distributed, pytest.mark.slow]


TwoRanks = Callable[[str, int], Path]


@pytest.fixture(scope="module")
def two_ranks(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> TwoRanks:
    """The folder of a run of two ranks with features kept so, under this ZeRO stage; trained once."""
    folder = tmp_path_factory.mktemp("kept")

    def train(kind: str, stage: int) -> Path:
        out = folder / f"{kind}-{stage}"
        if not out.exists():
            launch("ranks", [*words, *spread(stage), f"model.cache_features={kind}"], out, folder)
        return out

    return train


@pytest.mark.parametrize(("kind", "stage"), [("memory", 2), ("disk", 2), ("disk", 3)])
def test_two_ranks_with_kept_features_equal_one_process_without(
    kind: str, stage: int, two_ranks: TwoRanks, one_process: Path
) -> None:
    assert_equal_runs(one_process, two_ranks(kind, stage))


def test_kept_features_change_no_bit_of_what_two_ranks_train(two_ranks: TwoRanks) -> None:
    lines = {}
    for kind in ("off", "memory", "disk"):
        records = [json.loads(line) for line in (two_ranks(kind, 2) / "log.jsonl").read_text().splitlines()]
        lines[kind] = [(one["loss"], one["grad_norm"], one["domains"]) for one in records]
    assert lines["off"] == lines["memory"] == lines["disk"]
