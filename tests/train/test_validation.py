"""What is measured on the way: held-out loss without a trace in the training, scores by name, and the best of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llava_moe.files.our_files import read_objects
from llava_moe.train.loss import StepSums
from llava_moe.train.objective import Objective
from llava_moe.train.stage_log import VALIDATION
from llava_moe.train.validation import BestBy, Validation, held_out_sums, in_words, undisturbed
from tests.tiny_training import (
    DOMAINS,
    OBJECTIVE,
    Bigram,
    ListedStep,
    engine_of,
    inputs_of,
    rows_of,
    token_losses,
)

SUMS = StepSums(
    loss_D=torch.tensor([6.0, 5.0, 0.0], dtype=torch.float64),
    supervised_D=torch.tensor([8.0, 2.0, 0.0], dtype=torch.float64),
    samples_D=torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64),
    scalars=torch.zeros(5, dtype=torch.float64),
)


def measured(step: int, loss: float | None = None, exact_match: float | None = None) -> Validation:
    benchmarks = {} if exact_match is None else {"demo": {"exact_match": exact_match}}
    return Validation({"step": step, "held_out_loss": loss, "benchmarks": benchmarks})


def test_a_line_has_the_held_out_loss_its_ledger_and_the_benchmarks(tmp_path: Path) -> None:
    validation = Validation.of(40, SUMS, DOMAINS, {"demo": {"exact_match": 0.5, "relaxed.docs": math.nan}})
    assert validation.fields == {
        "step": 40,
        "held_out_loss": 1.1,
        "supervised_tokens": 10,
        "samples": 3,
        "domains": {
            "general": {"loss": 0.75, "supervised_tokens": 8, "samples": 2},
            "documents": {"loss": 2.5, "supervised_tokens": 2, "samples": 1},
        },
        "benchmarks": {"demo": {"exact_match": 0.5, "relaxed.docs": None}},
    }
    (tmp_path / "validation.jsonl").write_text(json.dumps(validation.fields) + "\n")
    assert Validation(read_objects(tmp_path / "validation.jsonl", "fix it", VALIDATION)[0]) == validation


def test_without_held_out_records_there_are_benchmarks_alone() -> None:
    assert Validation.of(1, None, DOMAINS, {"demo": {"f1": 0.25}}).fields == {
        "step": 1,
        "benchmarks": {"demo": {"f1": 0.25}},
    }


def test_scores_have_names_by_domain_and_measure_and_leave_out_what_is_not_finite() -> None:
    validation = Validation.of(40, SUMS, DOMAINS, {"demo": {"exact_match": 0.5, "f1": math.inf}})
    assert validation.step == 40 and validation.scores == {
        "held_out_loss": 1.1,
        "held_out_loss.general": 0.75,
        "held_out_loss.documents": 2.5,
        "demo.exact_match": 0.5,
    }


@pytest.mark.parametrize(
    ("score", "values", "best"),
    [
        ("held_out_loss", [3.0, 1.0, 2.0, 1.0], 2),
        ("demo.exact_match", [0.1, 0.4, 0.2, 0.4], 2),
        ("held_out_loss", [math.nan, 3.0, math.nan, -math.inf], 2),
        ("demo.exact_match", [math.nan, math.nan], None),
    ],
)
def test_the_best_is_the_lowest_loss_or_the_highest_measure_and_the_first_of_equals(
    score: str, values: list[float], best: int | None
) -> None:
    name = "loss" if score == "held_out_loss" else "exact_match"
    validations = [measured(step, **{name: value}) for step, value in enumerate(values, start=1)]
    found = BestBy(score).best_of(validations)
    assert (None if found is None else found.step) == best


def test_the_loss_of_a_domain_is_best_where_it_is_lowest() -> None:
    assert BestBy("held_out_loss.general").takes_lowest and not BestBy("demo.held_out_loss").takes_lowest


def test_a_line_in_words_has_losses_by_domain_and_measures_over_all_questions() -> None:
    scores = {"held_out_loss": 1.1, "held_out_loss.general": 0.75, "demo.exact_match": 0.5, "demo.exact_match.docs": 1}
    assert in_words(scores) == "held-out loss 1.1000 (general 0.7500), demo.exact_match 0.5000"
    assert in_words({"demo.f1": 0.25}) == "demo.f1 0.2500"


@pytest.mark.parametrize("draw", [random.random, np.random.random, lambda: torch.rand(1).item()])
def test_random_numbers_go_on_as_if_nothing_was_measured(draw: Callable[[], float]) -> None:
    module = nn.Linear(1, 1)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [draw(), draw()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [draw()]
    with undisturbed(module):
        draw()
    assert [*found, draw()] == expected


def test_each_parts_mode_is_put_back_also_behind_an_error() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    module[1].eval()
    with pytest.raises(ValueError, match="a bug"), undisturbed(module):
        assert not any(part.training for part in module.modules())
        raise ValueError("a bug")
    assert [part.training for part in module.modules()] == [True, True, False, False]


def test_held_out_loss_is_a_sum_over_tokens_by_domain_and_leaves_no_gradient() -> None:
    model, seats = Bigram(), [[[0, 3], [1]], [[2], [4, 5]]]
    engine = engine_of(model)
    marked: list[torch.Tensor] = []
    objective = Objective(inputs_of, mark_prompts=lambda labels, _: marked.append(labels))
    sums = held_out_sums(engine, objective, [ListedStep(rows_of(rows)) for rows in seats], len(DOMAINS))
    by_domain = [torch.cat([token_losses(model, at) for at in samples]) for samples in ([0, 3, 5], [2], [1, 4])]
    assert sums.loss_D.tolist() == pytest.approx([losses.sum().item() for losses in by_domain], abs=1e-5)
    assert sums.supervised_D.tolist() == [len(losses) for losses in by_domain]
    assert sums.samples_D.tolist() == [3, 1, 2] and len(marked) == 4
    assert all(parameter.grad is None for parameter in model.parameters()) and not sums.loss_D.requires_grad


def test_held_out_sums_are_those_of_all_ranks() -> None:
    engine = engine_of(Bigram())
    alone = held_out_sums(engine, OBJECTIVE, [ListedStep(rows_of([[0]]))], len(DOMAINS))
    engine.sum = lambda values: 2 * values  # type: ignore[method-assign]
    of_two = held_out_sums(engine, OBJECTIVE, [ListedStep(rows_of([[0]]))], len(DOMAINS))
    assert of_two.flat().equal(2 * alone.flat())


def test_nothing_is_computed_with_gradients() -> None:
    enabled: list[bool] = []
    engine = engine_of(Bigram())
    engine.module.register_forward_hook(lambda *_: enabled.append(torch.is_grad_enabled()))
    held_out_sums(engine, OBJECTIVE, [ListedStep(rows_of([[0]]))], len(DOMAINS))
    assert enabled == [False]
