"""Cells are compared item by item over the seeds that both have; a level is a comparison with nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_moe.errors import UserError
from llava_moe.grid.measured import Measured, Measures, Score, compare, read_measured


def measured(folder: Path, nats: list[float], right: list[float], **more: Any) -> Measured:
    told = {
        "parameters": 7,
        "flops_per_token": None,
        "records": [{"key": f"k{n}", "domain": "general", "tokens": n + 1, "nats": one} for n, one in enumerate(nats)],
        "questions": [
            {"id": f"q{n}", "domain": "general", "image": n // 2, "score": one} for n, one in enumerate(right)
        ],
        "curve": {"general": [[1, 2.5]]},
    }
    folder.mkdir(exist_ok=True)
    (folder / "measured.json").write_text(json.dumps(told | more))
    return read_measured(folder)


def test_items_of_an_image_are_one_group_and_losses_are_weighed_by_tokens(tmp_path: Path) -> None:
    one = measured(tmp_path, [1.0, 2.0, 6.0], [1, 0, 1, 1])
    assert one.items["loss", "general"].mean == pytest.approx(9 / 6)
    accuracy = one.items["accuracy", "general"]
    assert (accuracy.mean, accuracy.sums_G.tolist(), accuracy.weights_G.tolist()) == (0.75, [1, 2], [2, 2])


def test_a_difference_is_over_the_seeds_that_both_have_and_its_interval_needs_two(tmp_path: Path) -> None:
    low = {seed: measured(tmp_path, [1.0, 2.0, 3.0], [0, 0, 1, 0]) for seed in (0, 1, 5)}
    high = {seed: measured(tmp_path, [1.0, 2.0, 3.0 + seed], [1, 0, 1, 1]) for seed in (0, 1, 2)}
    told = compare(low, high, "accuracy", ["general"])
    assert told is not None and told.effect is not None
    assert (told.seeds, told.before, told.after, told.effect.value) == ((0, 1), 0.25, 0.75, 0.5)
    loss = compare(low, high, "loss", ["general"])
    assert loss is not None and loss.effect is not None
    assert loss.effect.value == pytest.approx(np.mean([0, 1 / 6]))
    alone = compare(low, {0: high[0]}, "accuracy", ["general"])
    assert alone is not None and alone.effect is None and alone.after == 0.75
    level = compare(None, high, "accuracy", ["general"])
    assert level is not None and level.effect is not None and level.effect.value == 0.75
    assert compare(low, {7: high[0]}, "accuracy", ["general"]) is None
    assert compare(low, high, "accuracy", ["medical"]) is None


def test_cells_that_were_asked_different_items_are_refused(tmp_path: Path) -> None:
    low, high = measured(tmp_path, [1.0, 2.0], [0, 1]), measured(tmp_path, [1.0, 2.0, 3.0], [0, 1])
    with pytest.raises(UserError, match=r"different items of general \(loss\)"):
        compare({0: low, 1: low}, {0: high, 1: high}, "loss", ["general"])


def test_what_is_measured_is_a_word_of_the_command_line() -> None:
    measures = Measures(("general",), None, {"general": Score("chartqa", "chartqa_relaxed_accuracy")})
    assert Measures.from_word(measures.as_word().removeprefix("measure=")) == measures
