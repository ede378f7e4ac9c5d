"""The stream of steps: the same whatever the workers, ranks and the place it is taken up at."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from llava_moe.data.batch import Batch
from llava_moe.data.encode import Encoder
from llava_moe.data.mixture import Mixture
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.data.stream import Step, StepStream
from llava_moe.errors import UserError


def llava_record(number: int, image: str | None, answer: str = "a red cat") -> dict[str, object]:
    question = f"what is in picture {number} ?"
    record: dict[str, object] = {
        "id": number,
        "conversations": [
            {"from": "human", "value": f"<image>\n{question}" if image else question},
            {"from": "gpt", "value": answer},
        ],
    }
    return record | ({"image": image} if image else {})


@pytest.fixture
def make_stream(
    tmp_path: Path, image_folder: Path, write_json: Callable[..., Path], make_encoder: Callable[..., Encoder]
) -> Callable[..., StepStream]:
    mixed = [llava_record(n, f"{n % 12}.jpg" if n % 3 else None, "yes " * (1 + n % 5)) for n in range(23)]
    seen = [llava_record(n, f"{n % 12}.jpg") for n in range(8)]
    sources = (
        Source("mixed", "general", str(write_json(mixed, "mixed.json")), images=str(image_folder)),
        Source("seen", "medical", str(write_json(seen, "seen.jsonl")), images=str(image_folder), repeats=1.5),
    )

    def make(sources: tuple[Source, ...] = sources, batch: int = 6, tokens: int = 200, **more: Any) -> StepStream:
        encoder = make_encoder()
        cache = tmp_path / "cache"
        records = [open_records(source, cache) for source in sources]
        indexes = [index_source(source, one, encoder, cache) for source, one in zip(sources, records, strict=True)]
        return StepStream(Mixture(sources, seed=3), indexes, records, encoder, batch, tokens, **more)

    return make


def same_batch(one: Batch, other: Batch) -> bool:
    tensors = ("input_ids", "labels", "position_ids", "pixel_values", "domains", "is_real")
    facts = ("segment_lengths", "keys", "sample_positions")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in facts
    )


def same_steps(some: list[Step], others: list[Step]) -> bool:
    return len(some) == len(others) and all(
        (one.epoch, one.index, one.keys, one.bad) == (other.epoch, other.index, other.keys, other.bad)
        and len(one.batches) == len(other.batches)
        and all(map(same_batch, one.batches, other.batches))
        for one, other in zip(some, others, strict=True)
    )


def test_every_sample_of_the_epoch_is_computed_once(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    steps = list(stream.iterate(0))
    assert len(steps) == stream.steps_in_epoch(0) == 6
    assert [len(step.keys) for step in steps] == [6, 6, 6, 6, 6, 5]
    for step in steps:
        placed = sorted(p for batch in step.batches for p in batch.sample_positions)
        assert placed == list(range(len(step.keys)))
        for batch in step.batches:
            assert batch.keys == tuple(step.keys[position] for position in batch.sample_positions)
            assert batch.input_ids.shape == (1, sum(batch.segment_lengths)) and batch.num_tokens <= 200


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(make_stream: Callable[..., StepStream], num_workers: int) -> None:
    alone = list(make_stream().iterate(1))
    assert same_steps(alone, list(make_stream(num_workers=num_workers).iterate(1)))


@pytest.mark.slow
def test_spawned_workers_change_nothing(make_stream: Callable[..., StepStream]) -> None:
    alone = list(make_stream().iterate(1))
    assert same_steps(alone, list(make_stream(num_workers=1, start_method="spawn").iterate(1)))


def test_taking_up_at_a_step_gives_the_rest_of_the_epoch(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    whole = list(stream.iterate(2))
    for first in (0, 1, 4, 6):
        assert same_steps(whole[first:], list(stream.iterate(2, first)))


def test_epochs_differ_in_order_and_in_what_is_repeated(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    first, second = (sum((step.keys for step in stream.iterate(epoch)), ()) for epoch in (0, 1))
    assert first != second
    assert set(first) == set(second), "every record comes up in every epoch"
    repeats = [{key for key in keys if keys.count(key) == 2} for keys in (first, second)]
    assert [len(keys) for keys in repeats] == [4, 4]
    assert not repeats[0] & repeats[1], "half a pass and then the other half"


def test_ranks_share_out_the_step_of_one_process(make_stream: Callable[..., StepStream]) -> None:
    alone = list(make_stream().iterate(0))
    ranks = [list(make_stream(rank=rank, world=3).iterate(0)) for rank in range(3)]
    for step, parts in zip(alone, zip(*ranks, strict=True), strict=True):
        assert {part.keys for part in parts} == {step.keys}
        assert len({len(part.batches) for part in parts}) == 1, "every rank runs as many rows"
        placed = [p for part in parts for batch in part.batches for p in batch.sample_positions if p >= 0]
        assert sorted(placed) == list(range(len(step.keys)))


def test_every_row_holds_an_image_where_a_null_image_is_given(make_stream: Callable[..., StepStream]) -> None:
    null_image = np.zeros((3, 8, 8), dtype=np.uint8)
    streams = [make_stream(rank=rank, world=4, null_image=null_image, batch=5) for rank in range(4)]
    null_rows = 0
    for stream in streams:
        image_token = stream.encoder.image_token_id
        for step in stream.iterate(0):
            for batch in step.batches:
                assert len(batch.pixel_values) >= 1
                assert int((batch.input_ids == image_token).sum()) == 4 * len(batch.pixel_values)
                null_rows += batch.num_samples == 0
            assert (step.padding_share > 0) == any(not batch.is_real.all() for batch in step.batches)
    assert null_rows > 0, "the short last step leaves a rank without samples"


def test_a_record_that_fails_to_decode_leaves_a_hole_and_the_plan_stands(
    make_stream: Callable[..., StepStream], image_folder: Path
) -> None:
    before = list(make_stream().iterate(0))
    content = (image_folder / "7.jpg").read_bytes()
    (image_folder / "7.jpg").write_bytes(content[: len(content) // 2])
    after = list(make_stream(num_workers=1).iterate(0))
    assert [step.keys for step in before] == [step.keys for step in after]
    bad = {entry for step in after for entry in step.bad}
    assert {(entry.source, entry.domain, entry.index, entry.id, entry.reason) for entry in bad} == {
        ("mixed", "general", 7, "7", "image_unreadable"),
        ("mixed", "general", 19, "19", "image_unreadable"),
        ("seen", "medical", 7, "7", "image_unreadable"),
    }
    for old, new in zip(before, after, strict=True):
        for one, other in zip(old.batches, new.batches, strict=True):
            assert one.segment_lengths == other.segment_lengths and one.keys == other.keys
            holes = ~other.is_real
            lengths = torch.tensor(other.segment_lengths)
            hole_tokens = torch.repeat_interleave(holes, lengths)[None]
            assert (other.labels[hole_tokens] == -100).all() and (other.domains[hole_tokens] == -1).all()
            assert torch.equal(one.labels[~hole_tokens], other.labels[~hole_tokens])
            assert torch.equal(one.input_ids[~hole_tokens], other.input_ids[~hole_tokens])
    assert sum(int((~batch.is_real).sum()) for step in after for batch in step.batches) == sum(
        len(step.bad) for step in after
    )


def test_domains_are_numbered_by_first_appearance(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    assert stream.mixture.domains == ("general", "medical")
    counts = torch.zeros(2, dtype=torch.long)
    for step in stream.iterate(0):
        for batch in step.batches:
            starts = np.cumsum((0, *batch.segment_lengths[:-1]))
            counts += torch.bincount(batch.domains[0, starts], minlength=2)
    assert counts.tolist() == [23, 12]


def test_a_row_too_small_for_the_longest_sample_is_refused(make_stream: Callable[..., StepStream]) -> None:
    with pytest.raises(UserError, match="micro_batch=30: the longest sample has"):
        make_stream(tokens=30)


def test_a_signal_to_the_whole_job_does_not_kill_the_workers(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream(num_workers=2, prefetch=1, batch=2)
    steps = stream.iterate(0)
    got = [next(steps)]
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker.pid, number)
    got += list(steps)
    assert [step.index for step in got] == list(range(stream.steps_in_epoch(0)))
    assert not multiprocessing.active_children()


def test_starting_workers_leaves_this_process_its_signals(make_stream: Callable[..., StepStream]) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    steps = make_stream(num_workers=1).iterate(0)
    next(steps)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, set()) == before
    steps.close()
    assert not multiprocessing.active_children(), "closing the stream ends its workers"


def test_a_worker_that_dies_is_an_error_and_not_a_hang(make_stream: Callable[..., StepStream]) -> None:
    steps = make_stream(num_workers=2, prefetch=1, batch=2).iterate(0)
    next(steps)
    for worker in multiprocessing.active_children():
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(steps)
    assert not multiprocessing.active_children()


def test_forking_after_the_tokenizers_threads_ran_warns_of_nothing(
    make_stream: Callable[..., StepStream],
    tokenizer: PreTrainedTokenizerBase,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    tokenizer(["what", "is", "this"])
    steps = make_stream(num_workers=1).iterate(0)
    next(steps)
    assert os.environ.get("TOKENIZERS_PARALLELISM") is None
    steps.close()
    assert "forked" not in capfd.readouterr().err
