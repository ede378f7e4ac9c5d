"""The account of a stage is what training then sees, to the last token."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from llava_moe.data.encode import IGNORED
from llava_moe.data.largest_remainder import Phase
from llava_moe.data.quarantine import Quarantined
from llava_moe.data.stream import StepStream
from llava_moe.datatools.stats.groups import Opened
from llava_moe.datatools.stats.packing_stats import PackingRequest, count_packing
from llava_moe.datatools.stats.stage import StageAccount, Training, account_stage
from llava_moe.datatools.stats.token_counts import Tally, take

MakeStream = Callable[..., StepStream]

MIXTURES: dict[str, dict[str, Any]] = {
    "as they are": {},
    "repeats and a cap": {"per_source": {"captions": {"repeats": 1.7}, "scans": {"repeats": 3.0}, "mixed": {"cap": 6}}},
    "by samples": {"per_source": {"scans": {"weight": 3.0}}, "epoch_samples": 50},
    "by tokens": {"per_source": {"scans": {"weight": 2.0, "cap": 20}}, "epoch_samples": 60, "weights": "tokens"},
    "by temperature": {"epoch_samples": 45, "weights": "temperature", "temperature": 3.0},
    "in phases": {
        "epoch_samples": 40,
        "phases": (Phase(0.25, {"general": 1.0}), Phase(0.75, {"medical": 2.0, "captions": 1.0})),
    },
}


def account_of(
    stream: StepStream, epochs: int = 1, max_steps: int | None = None, most: int | None = None
) -> StageAccount:
    encoder = stream.encoder
    assert isinstance(encoder.num_image_tokens, int)
    return account_stage(
        "stage",
        Opened(stream.mixture, stream.indexes),
        PackingRequest(stream.global_batch_size, stream.tokens_per_micro_batch, stream.world, None),
        Training(epochs, max_steps, most),
        encoder.num_image_tokens,
        encoder.max_length,
        encoder.over_length,
    )


def measure(stream: StepStream, steps: list[int]) -> tuple[dict[str, Tally], dict[str, Fraction]]:
    """Sums by domain over the batches of epochs of so many steps, and the mean share of a step's supervised tokens."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    loss: dict[str, Fraction] = defaultdict(Fraction)
    for epoch, num_steps in enumerate(steps):
        for step, _ in zip(stream.iterate(epoch), range(num_steps), strict=False):
            taught: Counter[str] = Counter()
            for batch in step.batches:
                start = 0
                for length in batch.segment_lengths:
                    ids, labels = (row[0, start : start + length] for row in (batch.input_ids, batch.labels))
                    domain = stream.mixture.domains[int(batch.domains[0, start])]
                    image_tokens = int((ids == stream.encoder.image_token_id).sum())
                    assert isinstance(stream.encoder.num_image_tokens, int)
                    images = image_tokens // stream.encoder.num_image_tokens
                    supervised = int((labels != IGNORED).sum())
                    tallies[domain] += Tally(1, length, image_tokens, supervised, images, int(images == 0))
                    taught[domain] += supervised
                    start += length
            for domain, supervised in taught.items():
                loss[domain] += Fraction(supervised, sum(taught.values()))
    return tallies, {domain: share / sum(steps) for domain, share in loss.items()}


@pytest.mark.parametrize("mixture", MIXTURES.values(), ids=MIXTURES)
def test_an_epoch_of_the_real_stream_has_exactly_the_shares_of_the_account(
    make_stream: MakeStream, mixture: dict[str, object]
) -> None:
    stream = make_stream(**mixture)
    account = account_of(stream)
    tallies, loss = measure(stream, [stream.steps_in_epoch()])
    total = sum(tallies.values(), Tally())
    assert account.all.epoch.tally == total == account.all.training.tally
    for group in account.of("domain"):
        found = tallies[group.name]
        assert group.epoch.tally == group.training.tally == found
        assert group.epoch.tally.prompt_tokens == found.tokens - found.image_tokens - found.supervised_tokens
        assert group.epoch.of_samples == found.samples / total.samples
        assert group.epoch.of_tokens == found.tokens / total.tokens
        assert group.epoch.of_supervised == found.supervised_tokens / total.supervised_tokens
        assert group.epoch.of_loss == pytest.approx(float(loss[group.name]), abs=1e-12)
    for kind in ("source", "domain"):
        assert sum((group.epoch.tally for group in account.of(kind)), Tally()) == total


@pytest.mark.parametrize("steps", [3, 17, 28])
def test_a_training_that_ends_inside_an_epoch_is_counted_to_its_last_step(make_stream: MakeStream, steps: int) -> None:
    stream = make_stream(**MIXTURES["repeats and a cap"])
    per_epoch = stream.steps_in_epoch()
    account = account_of(stream, max_steps=steps)
    epochs = [per_epoch] * (steps // per_epoch) + [steps % per_epoch]
    tallies, loss = measure(stream, epochs)
    for group in account.of("domain"):
        assert group.training.tally == tallies[group.name]
        assert group.training.of_loss == pytest.approx(float(loss[group.name]), abs=1e-12)
    assert (account.steps, account.steps_per_epoch, account.epochs) == (steps, per_epoch, steps / per_epoch)
    seen = {
        key
        for epoch, number in enumerate(epochs)
        for step, _ in zip(stream.iterate(epoch), range(number), strict=False)
        for key in step.keys
    }
    # The two records that are cut are copies of one another: one key, two records.
    assert account.all.seen - len(seen) in (0, 1)


def test_one_seed_repeats_and_two_differ(make_stream: MakeStream) -> None:
    half = {"captions": {"repeats": 0.5}, "mixed": {"repeats": 0.5}}
    one, again, other = (account_of(make_stream(half, seed=seed)) for seed in (1, 1, 2))
    assert one == again
    assert one.all.epoch.tally.samples == other.all.epoch.tally.samples
    assert one.all.epoch.tally != other.all.epoch.tally


def test_records_left_out_and_cut_are_counted_by_reason(make_stream: MakeStream) -> None:
    account = account_of(make_stream())
    captions, mixed, _ = account.of("source")
    assert (captions.records.num_records, captions.records.usable, captions.records.left_out) == (29, 29, {})
    assert (mixed.records.num_records, mixed.records.usable, mixed.records.cut) == (17, 16, 2)
    assert mixed.records.left_out == {"too_long": 1} and mixed.records.bad == 0
    assert account.all.records.num_records == 57 and account.all.records.left_out == {"too_long": 1}
    assert mixed.lengths is not None and mixed.lengths.max <= 100
    assert account.refused == ()


def test_held_out_and_listed_records_are_told_apart_from_bad_ones(make_stream: MakeStream) -> None:
    stream = make_stream()
    bad = tuple(Quarantined("captions", "general", n, f"c{n}", "image_missing", "no file") for n in (0, 1))
    captions = stream.indexes[0]
    index = replace(captions, **{name: getattr(captions, name)[5:] for name in ("rows", "lengths", "supervised")})
    index = replace(index, num_images=captions.num_images[5:], keys=captions.keys[5:], bad=bad)
    held = replace(index, rows=captions.rows[2:3])
    none = [replace(one, rows=one.rows[:0]) for one in stream.indexes[1:]]

    def counted(listed: tuple[Quarantined, ...]) -> StageAccount:
        opened = Opened(stream.mixture, (index, *stream.indexes[1:]), (held, *none), listed)
        return account_stage("x", opened, PackingRequest(7, 150, 1, None), Training(1, None), 4, 100, "cut")

    account = counted(())
    records = account.of("source")[0].records
    assert (records.usable, records.left_out, records.held_out, records.listed) == (24, {"image_missing": 2}, 1, 2)
    assert records.bad == 2 and [group.name for group in account.refused] == ["captions"]
    accepted = counted(bad)
    assert accepted.of("source")[0].records.bad == 0 and accepted.refused == ()


def test_passes_are_whole_and_drawn(make_stream: MakeStream) -> None:
    account = account_of(make_stream(**MIXTURES["repeats and a cap"]))
    captions, mixed, scans = account.of("source")
    assert (captions.whole_passes, captions.drawn, captions.epoch.tally.samples) == (1, 20, 49)
    assert (mixed.whole_passes, mixed.drawn) == (0, 6)
    assert (scans.whole_passes, scans.drawn, scans.passes) == (3, 0, 3.0)
    plan = make_stream(**MIXTURES["repeats and a cap"])
    times = Counter(plan.mixture.plan(plan.indexes, 0).entry[plan.mixture.plan(plan.indexes, 0).source == 0].tolist())
    assert Counter(times.values()) == {2: 20, 1: 9}


def test_the_counts_stand_beside_the_formula(make_stream: MakeStream) -> None:
    assert account_of(make_stream()).counts == ()
    by_name = {one.source: one for one in account_of(make_stream(**MIXTURES["repeats and a cap"])).counts}
    assert by_name["captions"].wanted == pytest.approx(49.3) and by_name["captions"].given == 49
    assert (by_name["mixed"].wanted, by_name["mixed"].cap, by_name["mixed"].given) == (16, 6, 6)
    claims = np.array([29, 16, 11]) ** (1 / 3)
    for one, claim in zip(account_of(make_stream(**MIXTURES["by temperature"])).counts, claims, strict=True):
        assert one.wanted == pytest.approx(45 * claim / claims.sum())
        assert abs(one.given - one.wanted) < 1
    stream = make_stream(**MIXTURES["in phases"])
    first, second = ([one for one in account_of(stream).counts if one.phase == phase] for phase in (0, 1))
    assert [one.given for one in first] == [5, 5, 0] and sum(one.given for one in second) == 30
    assert [one.wanted for one in second] == [10, 0, 20]
    assert account_of(stream).all.epoch.tally.samples == 40


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("with_null_image", [False, True])
def test_seating_is_that_of_the_real_stream(make_stream: MakeStream, world: int, with_null_image: bool) -> None:
    null = {"null_image": np.zeros((3, 8, 8), dtype=np.uint8)} if with_null_image else {}
    streams = [make_stream(world=world, rank=rank, **null) for rank in range(world)]
    seats = PackingRequest(7, 150, world, 4 if with_null_image else None)
    taken = take(streams[0].mixture.plan(streams[0].indexes, 0), streams[0].indexes)
    seating = count_packing(taken, seats)
    steps = [step for stream in streams for step in stream.iterate(0)]
    rows = [len(step.batches) for step in steps]
    batches = [batch for step in steps for batch in step.batches]
    tokens = sum(batch.num_tokens for batch in batches)
    idle = sum(step.padding_share * sum(batch.num_tokens for batch in step.batches) for step in steps)
    assert (seating.rows_min, seating.rows_max) == (min(rows), max(rows))
    assert seating.rows_mean == pytest.approx(np.mean(rows))
    assert seating.padding_share == pytest.approx(idle / tokens)
    filled = sum(batch.num_samples > 0 for batch in batches)
    assert seating.packing_efficiency == pytest.approx((tokens - idle) / (filled * 150))
    assert 0 < seating.balance <= 1 and (world > 1 or seating.balance == 1)


def test_a_large_epoch_is_seated_on_a_sample_of_steps_and_says_so(make_stream: MakeStream) -> None:
    stream = make_stream()
    taken = take(stream.mixture.plan(stream.indexes, 0), stream.indexes)
    some = count_packing(taken, PackingRequest(7, 150, 1, None), most_steps=3)
    assert (some.num_steps, some.num_seated) == (8, 3)
    assert count_packing(taken, PackingRequest(7, 150, 1, None)).num_seated == 8


def test_fewer_epochs_are_counted_where_fewer_are_asked_for(make_stream: MakeStream) -> None:
    stream = make_stream()
    account = account_of(stream, epochs=5, most=2)
    assert (account.epochs, account.epochs_counted, account.steps) == (5, 2, 40)
    assert account.all.training.tally.samples == 2 * account.all.epoch.tally.samples
