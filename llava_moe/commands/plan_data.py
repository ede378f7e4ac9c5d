"""The data of a plan: indexed where it is there, and where it is not, as many records as were published."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from rich.console import Console

from llava_moe.commands.data_job import open_stage
from llava_moe.commands.plan_features import features_note
from llava_moe.config.settings import mixture_of
from llava_moe.data.encode import Encoder
from llava_moe.data.mixture import Mixture
from llava_moe.data.readers.splits import settled
from llava_moe.data.records import Source
from llava_moe.data.source import find_files
from llava_moe.data.source_index import SourceIndex
from llava_moe.data.stream import StepStream
from llava_moe.datatools.prepare.recipe import load_recipe
from llava_moe.errors import UserError
from llava_moe.plan.steps import Steps, count_steps, stand_in
from llava_moe.run_config import RunConfig
from llava_moe.runs.stage import num_steps_of, steps_note
from llava_moe.runs.stages import Stage

# Width and height of an image that nobody has seen: those of most of COCO's.
EXPECTED_SIZE = (640, 480)
# Text tokens of a sample that nobody has seen: their logarithms are normal with this deviation. The share that is
# learned is of all its tokens. Assumptions.
EXPECTED_TEXT = 246
TEXT_DEVIATION = 0.7
EXPECTED_SUPERVISED = 0.09


@dataclass(frozen=True)
class PlanData:
    """What a plan knows of a stage's data.

    Attributes:
        missing: sources that are not there.
        notes: what a reader has to know of them, a line each.
    """

    mixture: Mixture
    steps: Steps
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def plan_data(stage: Stage, encoder: Encoder, progress: Console) -> PlanData:
    """Count the steps of a stage.

    Raises:
        UserError: what ``train`` would refuse, but for data that is not there yet and whose size was published.
    """
    config = stage.config
    mixture = mixture_of(config)
    absent = [source for source in mixture.sources if not _is_there(source)]
    expected = {source.name: _published(source) for source in absent}
    unknown = [name for name, number in expected.items() if number is None]
    if len(unknown) == len(mixture.sources):
        first = absent[0]
        raise UserError(
            f"data source {first.name!r}: {first.path} does not exist, and how many records it has was not published: "
            "get it first, or plan with data that is there (data=mine path=... images=...)"
        )
    there = [source.name for source in mixture.sources if source not in absent]
    indexes = _indexes(stage, there, encoder, progress)
    lengths = _expected_lengths(encoder)
    supervised = np.minimum(EXPECTED_SUPERVISED * lengths, lengths - _expected_image(encoder) - 1).astype(np.int32)
    for name, number in expected.items():
        kept = round((number or 0) * (1 - mixture.held_out))
        size = None if encoder.has_equal_images else EXPECTED_SIZE
        indexes[name] = stand_in(kept, lengths.tolist(), supervised.tolist(), size)
    ordered = [indexes[source.name] for source in mixture.sources]
    notes = []
    if absent:
        names = ", ".join(source.name for source in absent)
        notes.append(
            f"not there yet: {names}. Their records are counted as published, steps follow from that; tokens assume an "
            f"image and {EXPECTED_TEXT} text tokens a sample, {EXPECTED_SUPERVISED:.0%} of it learned"
        )
    notes += [f"{name}: how many records it has was not published; it is left out of the count" for name in unknown]
    notes += [
        f"{source.name}: an epoch takes none of its {len(index.rows):,} records: raise its repeats, cap or weight"
        for source, index, number in zip(mixture.sources, ordered, mixture.counts(ordered), strict=True)
        if len(index.rows) and not number
    ]
    stream = _stream(config, mixture, ordered, encoder)
    steps = _count(config, stream, list(expected))
    if note := steps_note(config, steps.num_steps):
        notes.append(note)
    if note := features_note(config, stream, steps.num_steps):
        notes.append(note)
    return PlanData(mixture, steps, tuple(expected), tuple(notes))


def _expected_lengths(encoder: Encoder) -> np.ndarray:
    """Tokens of 63 samples at even quantiles of what is assumed."""
    deviates = [NormalDist().inv_cdf(number / 64) for number in range(1, 64)]
    text = np.exp(TEXT_DEVIATION * np.asarray(deviates))
    text = np.maximum(2, text * EXPECTED_TEXT / text.mean())
    return np.minimum(_expected_image(encoder) + text, encoder.max_length).astype(np.int32)


def _expected_image(encoder: Encoder) -> int:
    """Tokens of an image that is not there yet."""
    return int(encoder.tokens_of_images(1, [EXPECTED_SIZE])[0])


def _is_there(source: Source) -> bool:
    if "://" in source.path or glob.glob(source.path, recursive=True):
        return True
    try:  # some formats' paths say more than a file
        return bool(find_files(source))
    except UserError:
        return False


def _published(source: Source) -> int | None:
    """Records that are prepared of a source: where its recipe draws some, those."""
    if not source.recipe:
        return None
    recipe = load_recipe(source.recipe)
    return recipe.expected(settled(source.split)) if recipe.draw is None else recipe.draw.expected


def _indexes(stage: Stage, names: list[str], encoder: Encoder, progress: Console) -> dict[str, SourceIndex]:
    """The indexes of the sources that are there, by the way that training opens them."""
    if not names:
        return {}
    data = dict(stage.config.plain["data"])
    nodes: Mapping[str, Any] = data["sources"]
    if len(names) < len(mixture_of(stage.config).sources):
        data |= {"sources": {name: nodes[name] for name in names}, "epoch_samples": None, "phases": []}
        data |= {"follows_domains": False}
    _, opened = open_stage(replace(stage, config=stage.config.changed(data=data)), progress)
    return {source.name: index for source, index in zip(opened.mixture.sources, opened.indexes, strict=True)}


def _stream(config: RunConfig, mixture: Mixture, indexes: list[SourceIndex], encoder: Encoder) -> StepStream:
    """The stream itself says how many steps there are, and refuses what it would refuse in training."""
    train = config.train
    nothing: Any = ((),) * len(indexes)
    return StepStream(
        mixture=mixture,
        indexes=indexes,
        records=nothing,
        encoder=encoder,
        global_batch_size=train.global_batch_size,
        tokens_per_micro_batch=train.tokens_per_micro_batch,
    )


def _count(config: RunConfig, stream: StepStream, expected: list[str]) -> Steps:
    num_steps, size = num_steps_of(config, stream), stream.global_batch_size
    in_epoch, num_entries = stream.steps_in_epoch(), stream.encoder.transform.num_entries
    return count_steps(stream.mixture, stream.indexes, num_steps, in_epoch, size, expected, num_entries)
