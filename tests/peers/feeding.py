"""How well ranks are fed: time to plan and seat 4 million samples, useful share of rank-time, waiting for data.

    python -m tests.peers.feeding                 # all of it, about three minutes of one core
    python -m tests.peers.feeding --no-loader     # without the demo's loader and training steps

Useful share: cost of the real samples / (ranks x cost of the slowest rank), by ``CostModel``, over optimizer steps of
128 samples on 8 ranks that meet at the end of a step. Lengths: a stand-in for the 665k mix (94 % of samples 576 image
tokens and a lognormal text of mean 200, 6 % text alone of mean 900), and those of the demo's records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from llava_moe import cli
from llava_moe.assemble import encoder_of, model_spec_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved
from llava_moe.config.settings import mixture_of, settle
from llava_moe.data.encode import Encoder
from llava_moe.data.mixture import Mixture
from llava_moe.data.pack import CostModel, balance_and_pack
from llava_moe.data.records import Records, Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.data.stream import Step, StepStream
from llava_moe.run_config import RunConfig

COST = CostModel()
RANKS = 8
PER_RANK = 16
STEP = RANKS * PER_RANK
DEMO = ("exp=mix_general_doc_med", "scale=demo")


@dataclass(frozen=True)
class Lengths:
    """Samples in random order: tokens and images of each, int64 [n]."""

    tokens: np.ndarray
    images: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def costs(self) -> np.ndarray:
        """[n]"""
        return self.tokens + COST.attention * self.tokens**2 + COST.image * self.images

    def padded_costs(self, batch: np.ndarray) -> np.ndarray:
        """Costs of samples ``batch`` when all are padded to the longest of them."""
        longest = int(self.tokens[batch].max())
        return longest + COST.attention * longest**2 + COST.image * self.images[batch]


def lengths_like_665k(count: int, seed: int = 0) -> Lengths:
    """The stand-in for the 665k mix; see the module."""
    draw = np.random.default_rng(seed)
    text = np.clip(draw.lognormal(np.log(200) - 0.245, 0.7, count).astype(np.int64), 40, 1400)
    alone = np.clip(draw.lognormal(np.log(900) - 0.32, 0.8, count).astype(np.int64), 60, 2048)
    has_image = draw.random(count) >= 0.06
    return Lengths(np.where(has_image, 576 + text, alone), has_image.astype(np.int64))


@dataclass(frozen=True)
class DemoData:
    mixture: Mixture
    records: tuple[Records, ...]
    indexes: tuple[SourceIndex, ...]
    encoder: Encoder


def open_demo(cache: Path) -> DemoData:
    """The demo's instruction data, opened and indexed."""
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        config = settle(resolved(compose("train", list(DEMO))))
    mixture, encoder = mixture_of(RunConfig.of(config)), encoder_of(model_spec_of(RunConfig.of(config)))
    records = tuple(open_records(source, cache) for source in mixture.sources)
    indexes = tuple(index_source(*pair, encoder, cache) for pair in zip(mixture.sources, records, strict=True))
    return DemoData(mixture, records, indexes, encoder)


def lengths_of_demo(demo: DemoData, num_epochs: int) -> Lengths:
    """The samples of some epochs of the demo in plan order."""
    plans = [demo.mixture.plan(demo.indexes, epoch) for epoch in range(num_epochs)]
    tokens, images = (np.concatenate([getattr(plan, name) for plan in plans]) for name in ("length", "num_images"))
    return Lengths(tokens.astype(np.int64), images.astype(np.int64))


Steps = list[list[np.ndarray]]


def dealt_in_order(lengths: Lengths) -> Steps:
    """Sixteen samples to each rank as they come: for each step, for each rank, its samples."""
    steps = np.arange(len(lengths) // STEP * STEP).reshape(-1, RANKS, PER_RANK)
    return [list(step) for step in steps]


def dealt_as_llava(lengths: Lengths, seed: int = 0) -> Steps:
    """LLaVA's ``group_by_modality_length``: global batches of one modality, sorted, split evenly by summed length.

    As in ``llava_trainer.py``: what is left of each modality's samples makes one last batch, which is left out here.
    """
    draw = np.random.default_rng(seed)
    steps: Steps = []
    for has_image in (True, False):
        samples = draw.permutation(np.flatnonzero((lengths.images > 0) == has_image))
        for first in range(0, len(samples) // STEP * STEP, STEP):
            batch = samples[first : first + STEP]
            chunks: list[list[int]] = [[] for _ in range(RANKS)]
            sums = [0.0] * RANKS
            for sample in batch[np.argsort(-lengths.tokens[batch], kind="stable")].tolist():
                shortest = sums.index(min(sums))
                chunks[shortest].append(sample)
                full = len(chunks[shortest]) == PER_RANK
                sums[shortest] = float("inf") if full else sums[shortest] + float(lengths.tokens[sample])
            steps.append([np.asarray(chunk) for chunk in chunks])
    return steps


def dealt_by_cost(lengths: Lengths, tokens_per_row: int) -> list[list[list[list[int]]]]:
    """Ours: for each step, for each rank, for each row, the samples' places in the step."""
    seats = []
    for first in range(0, len(lengths) // STEP * STEP, STEP):
        step = slice(first, first + STEP)
        seats.append(
            balance_and_pack(lengths.tokens[step].tolist(), lengths.images[step].tolist(), tokens_per_row, RANKS)
        )
    return seats


@dataclass(frozen=True)
class Share:
    """Shares of all ranks' time; they sum to 1."""

    useful: float
    padding: float
    waiting: float


def share_of(lengths: Lengths, steps: Steps, is_padded: bool) -> Share:
    """What ranks that meet at the end of each step do with their time."""
    costs = lengths.costs()
    useful = worked = spent = 0.0
    for ranks in steps:
        work = [float((lengths.padded_costs(rank) if is_padded else costs[rank]).sum()) for rank in ranks]
        useful += float(sum(costs[rank].sum() for rank in ranks))
        worked += sum(work)
        spent += RANKS * max(work)
    return Share(useful / spent, (worked - useful) / spent, (spent - worked) / spent)


def in_steps(seats: Sequence[Sequence[Sequence[Sequence[int]]]]) -> Steps:
    """Ours as a rank's samples of each step, whatever their rows."""
    return [
        [np.asarray([number * STEP + place for row in rows for place in row], dtype=np.int64) for rows in ranks]
        for number, ranks in enumerate(seats)
    ]


def row_by_row(lengths: Lengths, seats: Sequence[Sequence[Sequence[Sequence[int]]]]) -> Share:
    """Ours where ranks meet at every row, as under ZeRO-3, which gathers the weights for each."""
    costs = lengths.costs()
    useful = spent = 0.0
    for number, ranks in enumerate(seats):
        rows = np.asarray([[costs[np.asarray(row, int) + number * STEP].sum() for row in rank] for rank in ranks])
        useful += float(rows.sum())
        spent += RANKS * float(rows.max(axis=0).sum())
    return Share(useful / spent, 0.0, 1 - useful / spent)


def row_fill(lengths: Lengths, seats: Sequence[Sequence[Sequence[Sequence[int]]]], tokens_per_row: int) -> float:
    """Packing efficiency: tokens / (rows x ``tokens_per_row``). Rows are as long as what they hold: none is padded."""
    num_rows = sum(1 for ranks in seats for rows in ranks for row in rows if row)
    return float(lengths.tokens[: len(seats) * STEP].sum()) / (num_rows * tokens_per_row)


def schemes(lengths: Lengths, tokens_per_row: int = 2048) -> dict[str, Share]:
    """The useful share under each way to deal samples out."""
    in_order = dealt_in_order(lengths)
    return {
        "random, padded": share_of(lengths, in_order, is_padded=True),
        "LLaVA's group_by_modality_length, padded": share_of(lengths, dealt_as_llava(lengths), is_padded=True),
        "random, packed": share_of(lengths, in_order, is_padded=False),
        "ours: dealt by cost, packed": share_of(
            lengths, in_steps(dealt_by_cost(lengths, tokens_per_row)), is_padded=False
        ),
    }


def print_shares(lengths: Lengths, title: str, console: Console) -> None:
    table = Table(title=f"{title}: {len(lengths):,} samples, mean {lengths.tokens.mean():.0f} tokens")
    for column in ("scheme", "useful", "padding", "waiting"):
        table.add_column(column, justify="left" if column == "scheme" else "right")
    for name, share in schemes(lengths).items():
        table.add_row(name, *(f"{value:.1%}" for value in (share.useful, share.padding, share.waiting)))
    for tokens_per_row in (2048, 4096, 16_384):
        seats = dealt_by_cost(lengths, tokens_per_row)
        share, fill = row_by_row(lengths, seats), row_fill(lengths, seats, tokens_per_row)
        table.add_row(
            f"  ours if ranks met at every row of {tokens_per_row:,} ({fill:.0%} full)",
            *(f"{value:.1%}" for value in (share.useful, share.padding, share.waiting)),
        )
    console.print(table)


def time_packing(count: int, console: Console) -> None:
    """Plan an epoch of ``count`` samples from two sources, then seat all its steps, on one core."""
    lengths = lengths_like_665k(count * 3 // 4)
    keys = np.broadcast_to(np.uint8(0), (len(lengths), 32))
    ids = np.broadcast_to(np.uint64(0), int(lengths.images.sum()))
    index = SourceIndex(
        rows=np.arange(len(lengths)),
        lengths=lengths.tokens.astype(np.int32),
        supervised=lengths.tokens.astype(np.int32),
        num_images=lengths.images.astype(np.int16),
        keys=keys,
        image_ids=ids,
        num_records=len(lengths),
        num_cut=0,
        bad=(),
    )
    mixture = Mixture((Source("a", "a", "a.json"), Source("b", "b", "b.json", repeats=1 / 3)))
    started = time.process_time()
    plan = mixture.plan([index, index], 0)
    planned = time.process_time()
    for first in range(0, len(plan), STEP):
        step = slice(first, first + STEP)
        balance_and_pack(plan.length[step].tolist(), plan.num_images[step].tolist(), 2048, RANKS)
    seated = time.process_time()
    console.print(
        f"{len(plan):,} samples: planned in {planned - started:.1f} s, {-(-len(plan) // STEP):,} steps of {STEP} "
        f"seated on {RANKS} ranks in {seated - planned:.1f} s of one core"
    )


def samples_per_second(demo: DemoData, num_workers: int, num_steps: int = 60) -> float:
    """Demo samples decoded and collated a second, from the second step on; nothing is computed with them."""
    stream = StepStream(demo.mixture, demo.indexes, demo.records, demo.encoder, 8, 2048, num_workers=num_workers)
    steps = stream.iterate(0)
    next(steps)
    started = time.perf_counter()
    num_samples = sum(len(next(steps).keys) for _ in range(num_steps))
    seconds = time.perf_counter() - started
    steps.close()
    return num_samples / seconds


@contextmanager
def waits_counted() -> Iterator[list[float]]:
    """Seconds that the loop spends waiting for each step of any stream."""
    waits: list[float] = []
    iterate: Callable[..., Iterator[Step]] = StepStream.iterate

    def timed(stream: StepStream, epoch: int, first_step: int = 0) -> Iterator[Step]:
        steps = iterate(stream, epoch, first_step)
        while True:
            started = time.perf_counter()
            step = next(steps, None)
            waits.append(time.perf_counter() - started)
            if step is None:
                return
            yield step

    with mock.patch.object(StepStream, "iterate", timed):
        yield waits


def wait_share(num_workers: int, folder: Path, num_steps: int = 40) -> tuple[float, float]:
    """Share of a demo step's time spent waiting for data, and the median step in seconds; the first ten left out."""
    out = folder / f"run-{num_workers}"
    words = [
        *DEMO,
        f"train.max_steps={num_steps}",
        f"data.num_workers={num_workers}",
        f"out={out}",
        "eval.benchmarks=[]",
    ]
    with waits_counted() as waits:
        status = cli.run(["train", *words])
    assert status == 0
    log: list[Mapping[str, float]] = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(log) == num_steps
    seconds = [entry["seconds"] for entry in log[10:]]
    return sum(waits[10:num_steps]) / sum(seconds), statistics.median(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4_000_000, help="planned and seated for the time it takes")
    parser.add_argument("--steps", type=int, default=400, help="optimizer steps simulated")
    parser.add_argument("--no-loader", action="store_true")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    console = Console(width=120)
    time_packing(chosen.samples, console)
    print_shares(lengths_like_665k(chosen.steps * STEP), "lengths like the 665k mix's", console)
    with tempfile.TemporaryDirectory() as folder:
        demo = open_demo(Path(folder))
        print_shares(lengths_of_demo(demo, num_epochs=20), "the demo's own lengths", console)
        if chosen.no_loader:
            return
        for num_workers in (0, 1, 2):
            rate = samples_per_second(demo, num_workers)
            console.print(f"demo loader, {num_workers} workers: {rate:.0f} samples/s")
        for num_workers in (0, 1, 2):
            share, median = wait_share(num_workers, Path(folder))
            console.print(
                f"demo training, {num_workers} workers: {share:.2%} of a step's {median:.3f} s spent waiting for data"
            )


if __name__ == "__main__":
    main()
