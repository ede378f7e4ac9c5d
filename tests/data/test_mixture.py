"""Epoch plans: how many of each source, each record how often, and all of it decided by (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.largest_remainder import Phase
from llava_moe.data.mixture import EpochPlan, Mixture
from llava_moe.data.records import Source
from llava_moe.data.source_index import SourceIndex
from llava_moe.errors import UserError


def index(size: int, length: int = 10, first_row: int = 0) -> SourceIndex:
    """``size`` usable records, every second row of the file."""
    return SourceIndex(
        rows=np.arange(size, dtype=np.int64) * 2 + first_row,
        lengths=(length + np.arange(size) % 3).astype(np.int32),
        supervised=np.full(size, 3, dtype=np.int32),
        num_images=(np.arange(size) % 2).astype(np.int16),
        keys=np.zeros((size, 32), dtype=np.uint8),
        image_ids=np.arange(size // 2, dtype=np.uint64),
        num_records=2 * size,
        num_cut=0,
        bad=(),
    )


def source(name: str, **more: Any) -> Source:
    return Source(name, more.pop("domain", name), f"{name}.json", **more)


def same(one: EpochPlan, other: EpochPlan) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in EpochPlan.__dataclass_fields__)


kinds = st.tuples(
    st.integers(1, 40), st.floats(0.1, 4.5), st.none() | st.integers(1, 60), st.floats(0.1, 5.0), st.integers(5, 900)
)


@given(st.lists(kinds, min_size=1, max_size=4), st.integers(0, 5), st.integers(0, 3))
def test_a_source_gives_min_of_cap_and_repeats_each_record_as_evenly_as_can_be(
    some: list[tuple[Any, ...]], epoch: int, seed: int
) -> None:
    sources = tuple(source(f"s{n}", repeats=kind[1], cap=kind[2], weight=kind[3]) for n, kind in enumerate(some))
    indexes = [index(kind[0], kind[4], n) for n, kind in enumerate(some)]
    mixture = Mixture(sources, seed)
    wanted = [min(one.cap or 10**9, round(one.repeats * len(i.rows))) for one, i in zip(sources, indexes, strict=True)]
    if not sum(wanted):
        with pytest.raises(UserError, match="the epoch holds no sample"):
            mixture.plan(indexes, epoch)
        return
    plan = mixture.plan(indexes, epoch)
    check_plan(plan, indexes, wanted)
    assert same(plan, mixture.plan(indexes, epoch))


def check_plan(plan: EpochPlan, indexes: list[SourceIndex], wanted: list[int]) -> None:
    assert len(plan) == sum(wanted)
    assert plan.source.dtype == plan.num_images.dtype == np.int16
    assert plan.row.dtype == np.int64 and plan.length.dtype == np.int32
    for place, (one, want) in enumerate(zip(indexes, wanted, strict=True)):
        mine = plan.source == place
        assert mine.sum() == want
        entries = plan.entry[mine]
        assert np.array_equal(plan.row[mine], one.rows[entries])
        assert np.array_equal(plan.length[mine], one.lengths[entries])
        assert np.array_equal(plan.num_images[mine], one.num_images[entries])
        times = np.bincount(entries, minlength=len(one.rows))
        assert times.max() - times.min() <= 1 and times.min() == want // len(one.rows)


@given(
    st.lists(kinds, min_size=1, max_size=4),
    st.integers(1, 120),
    st.sampled_from(["samples", "tokens", "temperature"]),
    st.floats(0.5, 5.0),
)
def test_weights_share_out_a_fixed_epoch(
    some: list[tuple[Any, ...]], epoch_samples: int, weights: Any, temperature: float
) -> None:
    sources = tuple(source(f"s{n}", cap=kind[2], weight=kind[3], repeats=kind[1]) for n, kind in enumerate(some))
    indexes = [index(kind[0], kind[4]) for kind in some]
    mixture = Mixture(sources, 0, epoch_samples, weights, temperature)
    caps = [one.cap if one.cap is not None else epoch_samples for one in sources]
    if sum(caps) < epoch_samples:
        with pytest.raises(UserError, match=f"data.epoch_samples={epoch_samples}: the sources' caps allow {sum(caps)}"):
            mixture.plan(indexes, 0)
        return
    counts = mixture.counts(indexes)
    assert sum(counts) == epoch_samples and all(count <= cap for count, cap in zip(counts, caps, strict=True))
    shares = []
    for one, i in zip(sources, indexes, strict=True):
        share = one.weight
        if weights == "tokens":
            share /= i.lengths.mean()
        if weights == "temperature":
            share *= len(i.rows) ** (1 / temperature)
        shares.append(share)
    free = [n for n, count in enumerate(counts) if count < caps[n]]
    scale = sum(counts[n] for n in free) / max(sum(shares[n] for n in free), 1e-12)
    assert all(abs(counts[n] - scale * shares[n]) < 1 for n in free), "in proportion, to within one sample"
    check_plan(mixture.plan(indexes, 3), indexes, list(counts))


def test_token_weights_even_out_tokens() -> None:
    mixture = Mixture((source("long"), source("short", weight=3.0)), 0, 10_000, "tokens")
    indexes = [index(300, 800), index(300, 20)]
    plan = mixture.plan(indexes, 0)
    tokens = [int(plan.length[plan.source == place].sum()) for place in (0, 1)]
    assert tokens[1] / tokens[0] == pytest.approx(3.0, rel=0.01)


def test_temperature_goes_from_size_to_even() -> None:
    indexes = [index(900), index(100)]
    sources = (source("big"), source("small"))
    assert Mixture(sources, 0, 1000, "temperature", 1.0).counts(indexes) == (900, 100)
    assert Mixture(sources, 0, 1000, "temperature", 2.0).counts(indexes) == (750, 250)
    assert Mixture(sources, 0, 1000, "temperature", 1e9).counts(indexes) == (500, 500)
    assert Mixture(sources, 0, 1000).counts(indexes) == (500, 500)


def test_two_seeds_and_two_epochs_differ() -> None:
    indexes = [index(50), index(70)]
    sources = (source("a", repeats=0.5), source("b"))
    plans = [Mixture(sources, seed).plan(indexes, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for number, one in enumerate(plans):
        assert [same(one, other) for other in plans] == [number == place for place in range(4)]


def test_successive_epochs_use_a_source_up_before_they_repeat_it() -> None:
    mixture = Mixture((source("a"), source("b", weight=3.0)), 5, 40)
    indexes = [index(35), index(1000)]
    seen: Counter[int] = Counter()
    for epoch in range(3):
        plan = mixture.plan(indexes, epoch)
        seen.update(plan.entry[plan.source == 0].tolist())
        assert (plan.source == 0).sum() == 10
    assert len(seen) == 30 and set(seen.values()) == {1}


@given(st.integers(1, 60), st.data(), st.booleans(), st.integers(0, 3))
def test_what_successive_epochs_draw_is_disjoint_until_a_source_is_used_up(
    size: int, data: st.DataObject, has_phases: bool, seed: int
) -> None:
    count = data.draw(st.integers(1, size))
    phases = (Phase(0.5, {"a": 1.0}), Phase(0.5, {"a": 1.0})) if has_phases else ()
    mixture = Mixture((source("a"),), seed, count, phases=phases)
    drawn = np.concatenate([mixture.plan([index(size)], epoch).entry for epoch in range(size // count)])
    assert len(np.unique(drawn)) == len(drawn) == size // count * count


def test_a_source_more_leaves_what_the_others_give() -> None:
    two = Mixture((source("a", repeats=0.4), source("b", cap=9)), 1)
    three = Mixture((source("c"), source("b", cap=9), source("a", repeats=0.4)), 1)
    indexes = [index(50), index(60)]
    one, other = two.plan(indexes, 2), three.plan([index(10), *indexes[::-1]], 2)
    for mine, theirs in ((0, 2), (1, 1)):
        assert set(one.entry[one.source == mine].tolist()) == set(other.entry[other.source == theirs].tolist())


def test_the_order_of_sources_in_the_configuration_does_not_matter() -> None:
    indexes = [index(20), index(30)]
    one = Mixture((source("a"), source("b")), 1).plan(indexes, 0)
    other = Mixture((source("b"), source("a")), 1).plan(indexes[::-1], 0)
    assert np.array_equal(one.entry, other.entry) and np.array_equal(one.source, 1 - other.source)


def test_domains_are_counted_in_order_of_appearance() -> None:
    mixture = Mixture((source("a", domain="x"), source("b", domain="y"), source("c", domain="x")))
    assert mixture.domains == ("x", "y")


@pytest.mark.parametrize(
    ("sources", "more", "message"),
    [
        ((), {}, "the mixture has no source"),
        (("a", "a"), {}, "source names must differ"),
        (("a",), {"weights": "size"}, "data.weights='size'"),
        (("a",), {"temperature": 0.0}, "must be above 0"),
        (("a",), {"epoch_samples": 0}, "must be above 0"),
        (("a",), {"held_out": 1.0}, "data.held_out=1.0"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(sources: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(tuple(map(source, sources)), **more)


@given(
    st.integers(1, 300),
    st.lists(st.integers(1, 99), min_size=3, max_size=3),
    st.sampled_from(["samples", "tokens", "temperature"]),
    st.floats(0.5, 8.0),
)
def test_counts_are_what_the_formulas_say(
    epoch_samples: int, some: list[int], weights: Any, temperature: float
) -> None:
    sizes, sources = (1_592_320, 654_840, 19_654), tuple(source(f"s{n}", weight=w / 10) for n, w in enumerate(some))
    mean_lengths = (640.0, 810.0, 595.0)
    indexes = [level_index(size, int(mean)) for size, mean in zip(sizes, mean_lengths, strict=True)]
    counts = Mixture(sources, 0, epoch_samples * 1000, weights, temperature).counts(indexes)
    shares = np.asarray([one.weight for one in sources])
    if weights == "tokens":
        shares = shares / mean_lengths
    elif weights == "temperature":
        shares = shares * np.asarray(sizes) ** (1 / temperature)
    assert sum(counts) == epoch_samples * 1000
    assert np.abs(np.asarray(counts) - shares / shares.sum() * epoch_samples * 1000).max() < 1


def level_index(size: int, length: int) -> SourceIndex:
    """``size`` records of one length, without the memory of as many."""
    return replace(
        index(1),
        rows=np.broadcast_to(np.int64(0), size),
        lengths=np.broadcast_to(np.int32(length), size),
    )


def test_what_a_cap_withholds_goes_to_the_others_by_weight() -> None:
    sources = (source("a", weight=5.0, cap=100), source("b", weight=2.0), source("c", weight=1.0))
    assert Mixture(sources, 0, 1000).counts([index(400)] * 3) == (100, 600, 300)
    twice = (source("a", weight=5.0, cap=100), source("b", weight=2.0, cap=500), source("c"))
    assert Mixture(twice, 0, 1000).counts([index(400)] * 3) == (100, 500, 400)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Mixture, list[SourceIndex]]:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    caps = draw(st.lists(st.none() | st.integers(20, 90), min_size=len(sizes), max_size=len(sizes)))
    sources = tuple(
        source(f"s{n}", domain=f"d{n % 2}", cap=cap, weight=draw(st.floats(0.1, 3.0))) for n, cap in enumerate(caps)
    )
    names = sorted({one.name for one in sources} | {one.domain for one in sources})
    cuts = sorted(draw(st.lists(st.integers(1, 19), max_size=3, unique=True)))
    phases = []
    for first, last in pairwise([0, *cuts, 20]):
        named = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        phases.append(Phase((last - first) / 20, {name: draw(st.floats(0.1, 5.0)) for name in named}))
    kinds: list[Literal["samples", "tokens", "temperature"]] = ["samples", "tokens", "temperature"]
    weights = draw(st.sampled_from(kinds))
    mixture = Mixture(sources, draw(st.integers(0, 3)), draw(st.integers(1, 150)), weights, 2.0, phases=tuple(phases))
    return mixture, [index(size, 20 * n + 7, n) for n, size in enumerate(sizes)]


@given(schedules(), st.integers(0, 4))
def test_phases_share_out_an_epoch_exactly_and_use_records_evenly(
    schedule: tuple[Mixture, list[SourceIndex]], epoch: int
) -> None:
    mixture, indexes = schedule
    try:
        counts = mixture.phase_counts(indexes)
    except UserError as refusal:
        assert "the sources' caps allow" in str(refusal)
        return
    plan = mixture.plan(indexes, epoch)
    check_plan(plan, indexes, list(mixture.counts(indexes)))
    assert all(
        one.cap is None or got <= one.cap for one, got in zip(mixture.sources, mixture.counts(indexes), strict=True)
    )
    sizes = [sum(given) for given in counts]
    assert sum(sizes) == mixture.epoch_samples
    assert all(abs(size - phase.share * sum(sizes)) < 1 for size, phase in zip(sizes, mixture.phases, strict=True))
    ends = np.cumsum(sizes)
    for phase, taken, first, last in zip(mixture.phases, counts, ends - sizes, ends, strict=True):
        assert np.bincount(plan.source[first:last], minlength=len(taken)).tolist() == list(taken)
        for one, got in zip(mixture.sources, taken, strict=True):
            assert got == 0 or one.name in phase.weights or one.domain in phase.weights
        # Over the epoch so far, no record of a source has come twice before all have come once, and so on.
        for place, whole in enumerate(indexes):
            so_far = plan.entry[:last][plan.source[:last] == place]
            times = np.bincount(so_far, minlength=len(whole.rows))
            assert times.max() - times.min() <= 1
    assert same(plan, mixture.plan(indexes, epoch))


def test_a_phase_takes_weights_by_source_and_by_domain() -> None:
    sources = (
        source("m3it", domain="general", weight=3.0),
        source("sharegpt4v", domain="general"),
        source("ureader", domain="documents"),
        source("pathvqa", domain="medical"),
    )
    phases = (
        Phase(0.5, {"general": 1.0}),
        Phase(0.25, {"general": 2.0, "documents": 1.0, "medical": 1.0}),
        Phase(0.25, {"m3it": 1.0, "general": 1.0, "pathvqa": 2.0, "documents": 0.0}),
    )
    counts = Mixture(sources, 0, 3200, phases=phases).phase_counts([index(5000)] * 4)
    assert counts == ((1200, 400, 0, 0), (300, 100, 200, 200), (200, 200, 0, 400))


def test_a_cap_holds_over_the_epoch_and_an_earlier_phase_calls_first() -> None:
    sources = (source("a", cap=30), source("b"))
    phases = (Phase(0.5, {"a": 1.0, "b": 1.0}), Phase(0.5, {"a": 3.0, "b": 1.0}))
    assert Mixture(sources, 0, 100, phases=phases).phase_counts([index(99)] * 2) == ((25, 25), (5, 45))
    alone = (Phase(0.5, {"a": 1.0}), Phase(0.5, {"b": 1.0}))
    with pytest.raises(UserError, match=r"data\.phases\[0\]: samples=50: the sources' caps allow 30"):
        Mixture(sources, 0, 100, phases=alone).counts([index(99)] * 2)


def test_one_phase_of_the_own_weights_is_no_phase() -> None:
    sources = (source("a", weight=2.0), source("b", weight=0.5))
    indexes = [index(300), index(200)]
    plain = Mixture(sources, 4, 250).plan(indexes, 2)
    assert same(plain, Mixture(sources, 4, 250, phases=(Phase(1.0, {"a": 2.0, "b": 0.5}),)).plan(indexes, 2))


def test_a_phase_does_not_take_the_records_that_stand_first() -> None:
    phases = (Phase(0.1, {"a": 1.0}), Phase(0.9, {"a": 1.0, "b": 1.0}))
    mixture = Mixture((source("a"), source("b")), 0, 2000, phases=phases)
    plan = mixture.plan([index(300), index(300)], 0)
    assert (mixture.counts([index(300), index(300)])[0], len(np.unique(plan.entry[:200]))) == (1100, 200)
    assert plan.entry[:200].mean() == pytest.approx(150, abs=20)


def test_a_source_more_leaves_the_draws_of_a_schedule() -> None:
    phases = (Phase(0.4, {"a": 1.0}), Phase(0.6, {"a": 1.0, "b": 1.0}))
    with_third = (Phase(0.4, {"a": 1.0, "c": 1.0}), Phase(0.6, {"a": 1.0, "b": 1.0, "c": 2.0}))
    two = Mixture((source("a"), source("b")), 1, 100, phases=phases)
    three = Mixture((source("c"), source("a"), source("b")), 1, 200, phases=with_third)
    indexes = [index(60), index(60), index(60)]
    assert [two.phase_counts(indexes[:2]), [taken[1:] for taken in three.phase_counts(indexes)]] == [
        ((40, 0), (30, 30)),
        [(40, 0), (30, 30)],
    ]
    one, other = two.plan(indexes[:2], 3), three.plan(indexes, 3)
    for first, last, later, end in ((0, 40, 0, 80), (40, 100, 80, 200)):
        for place in (0, 1):
            mine = one.entry[first:last][one.source[first:last] == place]
            theirs = other.entry[later:end][other.source[later:end] == place + 1]
            assert sorted(mine.tolist()) == sorted(theirs.tolist())


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (
            [(0.5, {"a": 1.0}), (0.4, {"a": 1.0})],
            "data.phases: their shares must be above 0 and sum to 1, and sum to 0.9",
        ),
        ([(1.5, {"a": 1.0}), (-0.5, {"a": 1.0})], "data.phases: their shares must be above 0"),
        ([(1.0, {"z": 1.0})], "data.phases[0].weights.z: neither a source (a, b) nor a domain (a, x) of this data"),
        ([(0.5, {"a": 1.0}), (0.5, {"b": 0.0})], "data.phases[1].weights sum to nothing"),
        ([(1.0, {})], "data.phases[0].weights sum to nothing"),
        ([(1.0, {"idle": 1.0})], "data.phases[0].weights.idle: neither"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(phases: list[Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        Mixture((source("a"), source("b", domain="x")), 0, 9, phases=tuple(Phase(*phase) for phase in phases))
    assert str(refusal.value).startswith(message)


def test_a_schedule_needs_an_epoch_of_a_fixed_size_and_names_that_are_one_thing() -> None:
    with pytest.raises(UserError, match=r"give data\.epoch_samples=NUMBER"):
        Mixture((source("a"),), phases=(Phase(1.0, {"a": 1.0}),))
    clash = (source("general"), source("m3it", domain="general"))
    with pytest.raises(UserError, match="both a source and a domain of several"):
        Mixture(clash, 0, 9, phases=(Phase(1.0, {"general": 1.0}),))


def test_an_epoch_of_sources_without_records_is_refused() -> None:
    mixture = Mixture((source("a"), source("b", weight=0.0)), 0, 9)
    with pytest.raises(UserError, match="no source with a weight above 0 has a record"):
        mixture.counts([index(0), index(5)])


def test_four_million_samples_are_planned_in_seconds_and_in_arrays() -> None:
    import time
    import tracemalloc

    indexes = [index(3_000_000), index(600_000)]
    mixture = Mixture((source("a"), source("b", repeats=1.68)))
    started = time.perf_counter()
    tracemalloc.start()
    plan = mixture.plan(indexes, 0)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(plan) == 4_008_000
    assert most < 400e6 and time.perf_counter() - started < 60
