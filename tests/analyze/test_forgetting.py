"""The four numbers are those of their formulas, written out here, and resamples are paired over the trainings."""

from __future__ import annotations

import numpy as np
import pytest

from llava_moe.analyze.forgetting import measure_forgetting, summarize
from llava_moe.analyze.forgetting_scores import TrainedPart, choose_parts, read_losses
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import BenchmarkResult, Decoding, Facts, Measure, ScoreRow
from llava_moe.eval.results.bootstrap import Interval


def by_loops(scores: list[list[float]]) -> dict[str, float]:
    """The formulas with numbers from 1, as they stand in the contract."""
    num = len(scores)
    at = {(t, j): scores[t - 1][j - 1] for t in range(1, num + 1) for j in range(1, num + 1)}
    return {
        "MFT": sum(at[j, j] for j in range(1, num + 1)) / num,
        "MFN": sum(at[num, j] for j in range(1, num + 1)) / num,
        "MAA": sum(sum(at[t, j] for j in range(1, t + 1)) / t for t in range(1, num + 1)) / num,
        "BWT": sum(at[num, j] - at[j, j] for j in range(1, num)) / (num - 1),
    }


def test_a_matrix_by_hand_gives_the_numbers_by_hand() -> None:
    scores = [[0.8, 0.1, 0.2], [0.6, 0.7, 0.3], [0.5, 0.4, 0.9]]
    expected = {
        "MFT": (0.8 + 0.7 + 0.9) / 3,
        "MFN": (0.5 + 0.4 + 0.9) / 3,
        "MAA": (0.8 + (0.6 + 0.7) / 2 + (0.5 + 0.4 + 0.9) / 3) / 3,
        "BWT": ((0.5 - 0.8) + (0.4 - 0.7)) / 2,
    }
    found = measure_forgetting(np.array(scores))
    assert {name: one.value for name, one in found.summary.items()} == pytest.approx(expected)
    assert by_loops(scores) == pytest.approx(expected)
    assert [one.value for one in found.changes] == pytest.approx([-0.3, -0.3])
    assert all(one.interval is None for one in (*found.changes, *found.summary.values()))


@pytest.mark.parametrize("num", [2, 3, 7])
def test_many_matrices_at_once_give_the_formulas_of_each(num: int) -> None:
    many = np.random.default_rng(num).random((5, num, num))
    found = summarize(many)
    for place, one in enumerate(many):
        assert {name: values[place] for name, values in found.items()} == pytest.approx(by_loops(one.tolist()))


def test_a_score_that_is_not_there_takes_only_the_numbers_that_need_it() -> None:
    before_its_training = np.array([[0.8, np.nan], [0.6, 0.7]])
    assert set(measure_forgetting(before_its_training).summary) == {"MFT", "MFN", "MAA", "BWT"}
    right_after_it = np.array([[np.nan, 0.1], [0.6, 0.7]])
    assert set(measure_forgetting(right_after_it).summary) == {"MFN"}


def test_an_interval_is_of_the_paired_change_and_not_of_two_scores_apart() -> None:
    drawn = np.random.default_rng(0).normal(0.5, 0.1, 2000)
    resampled = np.empty((2000, 2, 2))
    resampled[:, 0, 0], resampled[:, 1, 0] = drawn, drawn - 0.1  # the same questions are lost on every draw
    resampled[:, 0, 1] = resampled[:, 1, 1] = 0.4
    found = measure_forgetting(np.array([[0.5, 0.4], [0.4, 0.4]]), resampled)
    interval = found.scores[0][0].interval
    assert interval is not None and interval.high - interval.low > 0.3
    for change in (found.changes[0].interval, found.summary["BWT"].interval):
        assert change is not None and change.high - change.low < 1e-9 and change.is_away_from_zero
    assert found.scores[1][1].interval == Interval(0.4, 0.4)


def result(benchmark: str, domain: str, rows: dict[str, list[str]]) -> BenchmarkResult:
    """A result with these domains' rows and their measures."""
    facts = Facts("llava_1_5", "", "", None, Decoding(), 1, "", "", 1, domain)
    scores = tuple(ScoreRow(row, None, None, {name: Measure(0.5, 4) for name in names}) for row, names in rows.items())
    return BenchmarkResult(benchmark, "m", ("exact_match",), scores, facts=facts)


DEMO = result("demo", "all", {"general": ["exact_match"], "documents": ["exact_match"], "all": ["exact_match"]})
POPE = result("pope", "general", {"random": ["f1"], "all": ["f1"]})


def test_the_part_of_a_run_is_the_domain_that_is_new_in_its_data() -> None:
    parts = choose_parts({"demo": DEMO}, [["general"], ["general", "documents"]], ["a", "b"], None, None)
    assert parts == (
        TrainedPart("demo", "general", "general", "exact_match"),
        TrainedPart("demo", "documents", "documents", "exact_match"),
    )
    both = {"demo": DEMO, "pope": POPE}
    parts = choose_parts(both, [["x"], ["y"]], ["a", "b"], ["pope", "documents"], None)
    assert parts[0] == TrainedPart("pope", "general", "all", "f1") and parts[1].name == "demo.documents"


@pytest.mark.parametrize(
    ("trained", "asked", "measure", "told"),
    [
        ([["general", "documents"], ["documents"]], None, None, "a trains general, documents, of which general, docu"),
        ([["general"], ["general"]], None, None, "a and b both train general"),
        ([["general"], ["medical"]], None, None, "medical, which b trains, is no part that all runs were scored on"),
        ([["general"], ["documents"]], ["general"], None, "parts= names 1 for 2 runs"),
        ([["general"], ["documents"]], ["general", "documents"], None, "general, which a trains, is asked about by"),
        ([["general"], ["documents"]], None, "accuracy", "measure=accuracy is no score of demo: there is "),
    ],
)
def test_a_part_that_is_not_plain_is_asked_for(
    trained: list[list[str]], asked: list[str] | None, measure: str | None, told: str
) -> None:
    results = {"demo": DEMO} | ({"pope": POPE} if asked and len(asked) == 2 else {})
    with pytest.raises(UserError, match=told):
        choose_parts(results, trained, ["a", "b"], asked, measure)


def test_held_out_losses_are_compared_on_the_same_records_alone() -> None:
    def line(general: float | None, documents: float, samples: int = 10) -> dict[str, object]:
        known = {"samples": samples, "supervised_tokens": 40}
        return {"domains": {"general": {"loss": general, **known}, "documents": {"loss": documents, **known}}}

    parts = (TrainedPart("demo", "general", "general", "m"), TrainedPart("demo", "documents", "documents", "m"))
    losses, notes = read_losses([line(0.5, 0.9), line(0.7, 0.3)], parts, ["a", "b"])
    assert losses.tolist() == [[0.5, 0.9], [0.7, 0.3]] and not notes
    losses, notes = read_losses([line(0.5, 0.9), line(0.7, 0.3, samples=9)], parts, ["a", "b"])
    assert np.isnan(losses).tolist() == [[False, True], [True, False]]
    assert "after b is of 9 records and 40 tokens, after a of 10 and 40: it is left out" in notes[0]
    losses, notes = read_losses([None, line(None, 0.3)], parts, ["a", "b"])
    assert np.isnan(losses).tolist() == [[True, True], [True, False]] and not notes
