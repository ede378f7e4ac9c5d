"""What holds of every metric: names, bounds, the best reference, order of references, any text, long texts."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval import metrics

Metric = Callable[[str, list[str]], float]
ONE_REFERENCE = [
    metrics.exact_match,
    metrics.squad_exact_match,
    metrics.squad_f1,
    metrics.chartqa_relaxed_accuracy,
    metrics.docvqa_anls,
    metrics.docvqa_anls_due,
    metrics.pathvqa_closed_accuracy,
    metrics.pathvqa_open_recall,
    metrics.pathvqa_open_f1,
    metrics.vqav2_accuracy,
    metrics.textvqa_accuracy,
    metrics.tiny_lvlm_word_match,
    metrics.classification_has_word,
    metrics.classification_exact,
]
MANY_REFERENCES = [metric for metric in ONE_REFERENCE if "pathvqa" not in metric.__name__]
VOTING = [metrics.vqav2_accuracy, metrics.textvqa_accuracy]
BEST_REFERENCE = [metric for metric in MANY_REFERENCES if metric not in VOTING]
PARSERS = [
    metrics.pope_answer_parse,
    metrics.mme_answer_parse,
    metrics.mme_answer_parse_lmms_eval,
    metrics.yes_no_extract,
    metrics.vqa_normalizer_vqav2,
    metrics.vqa_normalizer_textvqa,
]
FEW = settings(max_examples=50, deadline=None)

PIECES = ["yes", "no", "Yes.", "No,", "none", "the", "a", "two", "3.5", "5.", "1,000", "10%", "$5", "dog's", "dont"]
PIECES += [*"'/-_(?!,. \n\t", "  "]
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
AWKWARD = [
    "",
    " ",
    "\n\t ",
    "\u2028\u3000",
    "👍🏽",
    "👩‍👩‍👧",
    "日本語",
    "e\u0301",
    "İ",
    "ß",
    "\ud800",
    "\x00",
    "٣",
    "%",
    ".",
    "\\",
    "'",
]


def name_of(metric: Callable[..., Any]) -> str:
    return metric.__name__


def test_the_metrics_stand_under_their_names_and_take_a_prediction_and_references() -> None:
    assert sorted(metrics.__all__) == list(metrics.__all__)
    for name in metrics.__all__:
        assert inspect.getdoc(getattr(metrics, name)), name
    for metric in ONE_REFERENCE:
        assert list(inspect.signature(metric).parameters) == ["prediction", "references"]
    for parser in PARSERS:
        assert list(inspect.signature(parser).parameters) == ["prediction"]


@pytest.mark.parametrize("metric", ONE_REFERENCE, ids=name_of)
@FEW
@given(prediction=TEXTS, reference=TEXTS)
def test_scores_lie_between_nought_and_one_for_any_text(metric: Metric, prediction: str, reference: str) -> None:
    score = metric(prediction, [reference])
    assert type(score) is float
    assert 0.0 <= score <= 1.0


@pytest.mark.parametrize("metric", ONE_REFERENCE, ids=name_of)
def test_awkward_texts_are_scored_on_either_side(metric: Metric) -> None:
    for prediction in AWKWARD:
        for reference in AWKWARD:
            assert 0.0 <= metric(prediction, [reference]) <= 1.0


@pytest.mark.parametrize("parser", PARSERS, ids=name_of)
def test_awkward_texts_are_parsed(parser: Callable[[str], object]) -> None:
    for text in AWKWARD:
        assert isinstance(parser(text), str)


@pytest.mark.parametrize("metric", BEST_REFERENCE, ids=name_of)
@FEW
@given(prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=4))
def test_the_best_reference_counts(metric: Metric, prediction: str, references: list[str]) -> None:
    kept = list(references)
    assert metric(prediction, references) == max(metric(prediction, [reference]) for reference in references)
    assert references == kept, "a metric must not change its references"


@pytest.mark.parametrize("metric", MANY_REFERENCES, ids=name_of)
@FEW
@given(data=st.data(), prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=10))
def test_the_order_of_references_does_not_matter(
    metric: Metric, data: st.DataObject, prediction: str, references: list[str]
) -> None:
    shuffled = data.draw(st.permutations(references))
    assert metric(prediction, shuffled) == metric(prediction, references)


@pytest.mark.parametrize(
    "metric", [metrics.docvqa_anls_due, metrics.squad_exact_match, metrics.squad_f1, metrics.classification_exact]
)
@FEW
@given(
    one=TEXTS.map(lambda text: text.replace("\n", "")),
    other=TEXTS.map(lambda text: text.replace("\n", "")),
)
def test_prediction_and_reference_may_change_places(metric: Metric, one: str, other: str) -> None:
    assert metric(one, [other]) == pytest.approx(metric(other, [one]))


@pytest.mark.parametrize("metric", ONE_REFERENCE, ids=name_of)
@pytest.mark.parametrize("references", [[], "a text instead of a list"])
def test_references_must_be_a_list_that_holds_something(metric: Metric, references: Any) -> None:
    with pytest.raises(ValueError, match="references"):
        metric("yes", references)


@pytest.mark.parametrize("long", ["1," * 25_000, "." * 50_000, " a" * 25_000, "yes no, " * 6_000, "(" * 50_000 + " "])
def test_very_long_answers_stay_quick(long: str) -> None:
    start = time.process_time()
    for metric in ONE_REFERENCE:
        metric(long, ["yes"])
        metric("yes", [long])
    for parser in PARSERS:
        parser(long)
    metrics.mmbench_extract(long, {"A": "cat", "B": long})
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Yes.", "yes", 1),
        (" yes ", "Yes", 1),
        ("yes..", "yes", 0),
        ("yes, it is", "yes", 0),
        ("STRASSE", "straße", 1),
        ("3.5", "3.5", 1),
        ("", "", 1),
        (".", "", 1),
        ("", "yes", 0),
        ("a bar", "bar", 0),
    ],
)
def test_exact_match_forgives_case_blanks_and_one_full_stop(prediction: str, reference: str, score: int) -> None:
    assert metrics.exact_match(prediction, [reference]) == score
