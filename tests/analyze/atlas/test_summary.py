"""The atlas of hand-made counts: shares, entropy, dead experts, information, probe, drift."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llava_moe.analyze.atlas.summary import Measured, RecordSet, strongest_routers, summarize

KINDS = ("image", "prompt", "answer")
NUM = 6
FOUR = np.array([4, 4])
RECORDS = RecordSet(("pictures", "papers"), np.repeat([0, 1], NUM), np.arange(2 * NUM))


def hand_made() -> Measured:
    """Two routers of four experts, ten tokens of each kind a record.

    Router 0: images to experts 0 and 1 evenly, prompts to expert 0 (pictures) or 1 (papers), answers to expert 2.
    Router 1: everything to all four but for expert 3, which gets one token in a hundred of the answers of one domain.
    """
    served_NUGK = np.zeros((2 * NUM, 2, 3, 4))
    served_NUGK[:, 0, 0, :2] = 5
    served_NUGK[:NUM, 0, 1, 0] = served_NUGK[NUM:, 0, 1, 1] = 10
    served_NUGK[:, 0, 2, 2] = 10
    served_NUGK[:, 1, :, :3] = 10 / 3
    served_NUGK[:NUM, 1, 2] = [3.3, 3.3, 3.3, 0.1]
    return Measured(40, served_NUGK, np.full((2 * NUM, 2, 3), 15.0))


def test_shares_entropy_and_effective_numbers_are_those_of_the_counts() -> None:
    atlas = summarize(hand_made(), RECORDS, KINDS, FOUR, num_resamples=50)
    assert list(atlas) == ["all", *KINDS]
    assert atlas["image"].share_MUK[:, 0].tolist() == [[0.5, 0.5, 0, 0]] * 2
    assert atlas["image"].entropy_MU[:, 0].tolist() == [1.0, 1.0]
    assert atlas["prompt"].entropy_MU[:, 0].tolist() == [0.0, 0.0]
    assert atlas["prompt"].entropy_MU[:, 1] == pytest.approx([math.log2(3)] * 2)
    assert atlas["all"].served_MUK.sum(-1).tolist() == [[30 * NUM] * 2] * 2
    assert atlas["all"].share_MUK[0, 0] == pytest.approx([0.5, 1 / 6, 1 / 3, 0])
    assert atlas["answer"].doubt_MU == pytest.approx(np.full((2, 2), 1.5))
    assert atlas["all"].doubt_MU == pytest.approx(np.full((2, 2), 1.5)) and atlas["all"].changed_MU is None


def test_dead_experts_are_those_below_the_told_share_of_all_domains() -> None:
    atlas = summarize(hand_made(), RECORDS, KINDS, FOUR, num_resamples=50)
    assert atlas["image"].is_dead_UK.tolist() == [[False, False, True, True], [False, False, False, True]]
    assert atlas["prompt"].is_dead_UK[0].tolist() == [False, False, True, True]  # each serves one domain
    # Half of one in a hundred is 0.005; a twentieth of a quarter is 0.0125.
    assert atlas["answer"].is_dead_UK[1].tolist() == [False, False, False, True]
    kinder = summarize(hand_made(), RECORDS, KINDS, FOUR, dead_below=0.01, num_resamples=50)
    assert not kinder["answer"].is_dead_UK[1].any()


def test_information_and_probe_say_where_the_domain_is_to_be_seen() -> None:
    atlas = summarize(hand_made(), RECORDS, KINDS, FOUR, num_resamples=200)
    image, prompt = atlas["image"], atlas["prompt"]
    assert image.information is not None and prompt.information is not None
    assert image.information.bits.tolist() == [0.0, 0.0]
    assert prompt.information.bits.tolist() == pytest.approx([1.0, 0.0])
    assert prompt.information.p_value[0] < 0.05 < prompt.information.p_value[1]
    assert prompt.probe is not None and prompt.probe.accuracy == 1.0
    assert image.probe is not None and image.probe.low < 0.5 <= image.probe.chance_high
    assert strongest_routers(atlas, "prompt", 1) == [0] and strongest_routers(atlas, "image", 2) == [0, 1]


def test_drift_is_the_share_of_decisions_that_changed() -> None:
    measured = hand_made()
    changed_NUG = np.zeros((2 * NUM, 2, 3))
    changed_NUG[:NUM, 0, 1] = 4
    measured = Measured(50, measured.served_NUGK, measured.doubt_NUG, changed_NUG)
    atlas = summarize(measured, RECORDS, KINDS, FOUR, num_resamples=50)
    assert atlas["prompt"].changed_MU is not None and atlas["all"].changed_MU is not None
    assert atlas["prompt"].changed_MU.tolist() == [[0.4, 0.0], [0.0, 0.0]]
    assert atlas["all"].changed_MU == pytest.approx(np.array([[4 / 30, 0.0], [0.0, 0.0]]))


def test_a_domain_without_images_has_no_part_in_what_images_say() -> None:
    measured = hand_made()
    measured.served_NUGK[NUM:, :, 0] = 0
    atlas = summarize(measured, RECORDS, KINDS, FOUR, num_resamples=50)
    assert np.isnan(atlas["image"].share_MUK[1]).all() and not atlas["image"].is_dead_UK[0, :2].any()
    assert atlas["image"].domains == ("pictures",) and atlas["image"].information is None
    assert atlas["image"].probe is None and atlas["prompt"].probe is not None
    assert strongest_routers(atlas, "image", 3) == [0, 1]


def test_records_of_one_image_are_one_cluster() -> None:
    together = RecordSet(RECORDS.names, RECORDS.domains_N, np.repeat(np.arange(NUM), 2))
    apart = summarize(hand_made(), RECORDS, KINDS, FOUR, num_resamples=400)["prompt"].information
    joined = summarize(hand_made(), together, KINDS, FOUR, num_resamples=400)["prompt"].information
    assert apart is not None and joined is not None
    assert joined.plug_in.tolist() == apart.plug_in.tolist()
    assert joined.chance_high[0] > apart.chance_high[0]


def test_an_expert_that_a_gate_does_not_have_is_not_dead() -> None:
    served_NUGK = np.zeros((2 * NUM, 1, 1, 3))
    served_NUGK[..., :2] = 0.5
    measured = Measured(1, served_NUGK, np.ones((2 * NUM, 1, 1)))
    (atlas,) = summarize(measured, RECORDS, ("record",), np.array([3]), are_weights=True, num_resamples=50).values()
    assert atlas.num_experts_U.tolist() == [2] and not atlas.is_dead_UK.any()
    (by_choice,) = summarize(measured, RECORDS, ("record",), np.array([3]), num_resamples=50).values()
    assert by_choice.is_dead_UK.tolist() == [[False, False, True]]


def test_places_beyond_a_routers_own_experts_are_not_dead() -> None:
    atlas = summarize(hand_made(), RECORDS, KINDS, np.array([3, 4]), num_resamples=50)
    assert atlas["all"].num_experts_U.tolist() == [3, 4]
    assert atlas["all"].is_dead_UK[0].tolist() == [False] * 4 and atlas["image"].is_dead_UK[0, 2]
