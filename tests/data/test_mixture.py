"""Epoch plans: how many of each source, each record how often, and all of it decided by (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.data.lengths import SourceIndex
from llava_moe.data.mixture import EpochPlan, Mixture
from llava_moe.data.source import Source
from llava_moe.errors import UserError


def index(size: int, length: int = 10, first_row: int = 0) -> SourceIndex:
    """``size`` usable records, every second row of the file."""
    return SourceIndex(
        rows=np.arange(size, dtype=np.int64) * 2 + first_row,
        lengths=(length + np.arange(size) % 3).astype(np.int32),
        supervised=np.full(size, 3, dtype=np.int32),
        num_images=(np.arange(size) % 2).astype(np.int16),
        keys=np.zeros((size, 32), dtype=np.uint8),
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
    assert (plan.source.dtype, plan.row.dtype, plan.length.dtype, plan.num_images.dtype) == (
        np.int16,
        np.int64,
        np.int32,
        np.int16,
    )
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
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(sources: tuple[str, ...], more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mixture(tuple(map(source, sources)), **more)


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
