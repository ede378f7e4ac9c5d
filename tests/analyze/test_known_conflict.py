"""On ``exp=conflict`` the truth is known, and the instruments say which domains agree and which conflict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.cli import run

CAMP = {"clothing": 0, "charts": 0, "radiology": 1, "microscopy": 1}
WORDS = (
    *("exp=conflict", "adapter=lora", "model=tiny", "train.max_steps=30"),
    *("train.num_threads=1", "data.num_workers=0"),
)
MEASURE = ("samples=16", "resamples=100", "num_threads=1")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "run"


def pairs_right(matrix: list[list[float]], names: list[str], conflict: float) -> list[bool]:
    """Of every two different domains, whether the sign is the true one."""
    return [
        (matrix[i][j] < 0) == (CAMP[names[i]] != CAMP[names[j]] and conflict > 0)
        for i in range(len(names))
        for j in range(len(names))
        if i != j
    ]


def measure(instrument: str, folder: Path, *words: str) -> dict[str, Any]:
    out = folder / "measured"
    assert run(["analyze", instrument, f"run={folder}", f"out={out}", *MEASURE, *words]) == 0
    facts: dict[str, Any] = json.loads((out / f"{instrument}.json").read_text())
    return facts


def whole_of(facts: dict[str, Any]) -> dict[str, Any]:
    """The gradients of all the adapter's parameters."""
    return next(one for one in facts["results"] if one["scope"] == "all")


@pytest.mark.slow
def test_while_domains_are_not_told_apart_nine_in_ten_signs_are_the_true_ones_over_seeds(measured: Path) -> None:
    signs: dict[str, list[bool]] = {}
    for seed in (0, 1):
        folder = measured / str(seed)
        assert run(["train", *WORDS, "conflict=1.0", f"seed={seed}", f"out={folder}"]) == 0
        facts = measure("interference", folder, "checkpoint=10", "exact=[]")
        for name in ("ratio_of_means", "direction_cosine"):
            signs.setdefault(name, []).extend(pairs_right(whole_of(facts)[name], facts["names"], 1.0))
        transfer = measure("transfer", folder, "checkpoint=10", "steps=3")
        signs.setdefault("transfer", []).extend(pairs_right(transfer["fall"], transfer["names"], 1.0))
        found = {(one["parameters"], one["matrix"]): one["rho"] for one in transfer["rank_correlations"]}
        assert found["adapter", "effect"] > 0.5
    assert {name: np.mean(right) >= 0.9 for name, right in signs.items()} == dict.fromkeys(signs, True), signs


def test_without_a_conflict_no_pair_is_said_to_conflict(measured: Path) -> None:
    assert run(["train", *WORDS, "conflict=0.0", f"out={measured}"]) == 0
    facts = measure("interference", measured, "checkpoint=10", "exact=[]")
    assert np.mean(pairs_right(whole_of(facts)["ratio_of_means"], facts["names"], 0.0)) >= 0.9
