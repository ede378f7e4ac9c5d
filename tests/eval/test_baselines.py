"""The majority answer, the other image, the draw of questions, and the intervals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.eval.baselines import AskedPair, count_majority, draw_other_images, draw_pairs
from llava_moe.eval.intervals import mean_of, paired_difference


def pair(
    number: int, question: str = "What?", domain: str = "general", image: bytes | None = None, **kind: Any
) -> AskedPair:
    image = bytes([number]) if image is None else image
    return AskedPair(
        image_id=f"i{number}",
        images=(image,),
        question=question,
        answer="x",
        domain=domain,
        kind=kind.get("kind", "k"),
        closed=kind.get("closed", True),
        index=0,
    )


def test_the_majority_answer_is_counted_by_question_text_and_falls_back_to_the_kind() -> None:
    training = [
        ("general", "Colour?", "colour", "Red."),
        ("general", "Colour?", "colour", "red"),
        ("general", "Colour?", "colour", "blue"),
        ("general", "Which colour?", "colour", "blue"),
        ("general", "Which colour?", "colour", "blue"),
        ("medical", "Colour?", "colour", "pink"),
    ]
    majority = count_majority(training)
    assert majority.answer(pair(0, "Colour?", kind="colour")) == "red"
    assert majority.answer(pair(0, "Never asked?", kind="colour")) == "blue"
    assert majority.answer(pair(0, "Colour?", domain="medical", kind="colour")) == "pink"
    assert majority.answer(pair(0, "Never asked?", kind="unknown")) == ""


def test_a_tie_goes_to_the_first_answer_of_the_alphabet() -> None:
    training = [("general", "Q?", "k", answer) for answer in ("no", "yes", "yes", "no")]
    assert count_majority(training).answer(pair(0, "Q?")) == "no"
    assert count_majority(training[::-1]).answer(pair(0, "Q?")) == "no"


def test_the_other_image_carries_the_same_question_in_the_same_domain() -> None:
    pairs = [pair(number, f"Q{number % 3}?", ("general", "medical")[number % 2]) for number in range(40)]
    others = draw_other_images(pairs, seed=3)
    assert set(others) == {one.id for one in pairs}
    for one in pairs:
        other = others[one.id]
        assert (other.question, other.domain) == (one.question, one.domain)
        assert other.images != one.images


def test_the_same_bytes_under_another_id_are_no_other_image() -> None:
    pairs = [pair(0, image=b"same"), pair(1, image=b"same"), pair(2, "Alone?")]
    assert draw_other_images(pairs, seed=0) == {}


def test_the_draw_of_other_images_is_the_seeds_and_not_the_orders() -> None:
    pairs = [pair(number) for number in range(30)]
    drawn = {key: other.id for key, other in draw_other_images(pairs, seed=1).items()}
    assert {key: other.id for key, other in draw_other_images(pairs[::-1], seed=1).items()} == drawn
    assert {key: other.id for key, other in draw_other_images(pairs, seed=2).items()} != drawn


def test_at_most_the_limit_of_each_kind_is_drawn_in_the_order_given() -> None:
    pairs = [pair(number, kind=("a", "b")[number % 2]) for number in range(40)]
    drawn = draw_pairs(pairs, 5, compared=(), min_compared=0, seed=0)
    assert [one.kind for one in drawn].count("a") == [one.kind for one in drawn].count("b") == 5
    assert drawn == [one for one in pairs if one in drawn]
    assert drawn != draw_pairs(pairs, 5, compared=(), min_compared=0, seed=1)


def test_the_limit_of_closed_kinds_is_raised_until_a_domain_has_enough() -> None:
    pairs = [pair(number, kind="few") for number in range(3)]
    pairs += [pair(number, kind="many") for number in range(3, 60)]
    pairs += [pair(number, kind="open", closed=False) for number in range(60, 100)]
    pairs += [pair(number, kind="lonely") for number in range(100, 110)]
    compared = {one.id for one in pairs if one.kind != "lonely"}
    drawn = draw_pairs(pairs, 5, compared=compared, min_compared=20, seed=0)
    assert sum(one.closed and one.id in compared for one in drawn) == 20
    assert sum(not one.closed for one in drawn) == sum(one.kind == "lonely" for one in drawn) == 5
    everything = draw_pairs(pairs, 5, compared=compared, min_compared=1000, seed=0)
    assert sum(one.closed and one.id in compared for one in everything) == 60


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilsons_interval_holds_the_share_and_solves_its_equation(right: list[bool]) -> None:
    measure = mean_of([float(one) for one in right])
    assert measure.value == sum(right) / len(right)
    assert measure.low is not None and measure.high is not None
    assert 0 <= measure.low <= measure.value <= measure.high <= 1
    for edge in (measure.low, measure.high):
        if 0 < edge < 1:
            distance = abs(measure.value - edge)
            assert distance == pytest.approx(1.959963984540054 * math.sqrt(edge * (1 - edge) / len(right)), abs=1e-9)


def test_scores_between_nought_and_one_have_no_interval() -> None:
    assert mean_of([0.5, 1.0]).low is None
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])


def test_a_paired_difference_uses_the_pairs() -> None:
    scores, others = [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]
    measure = paired_difference(scores, others)
    assert measure.value == 0.5
    spread = 1.959963984540054 * math.sqrt((4 * 0.25 / 3) / 4)
    assert (measure.low, measure.high) == pytest.approx((0.5 - spread, min(1.0, 0.5 + spread)))
    assert paired_difference(scores, scores).low == paired_difference(scores, scores).high == 0.0
    with pytest.raises(ValueError, match="lengths"):
        paired_difference([1.0], [])
