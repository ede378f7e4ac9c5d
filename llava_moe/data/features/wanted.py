"""Which records a run has yet to read, so that their images' features are computed and no others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llava_moe.data.features.image_scan import Wanted
from llava_moe.data.pack import balance_and_pack
from llava_moe.data.stream import StepStream


def wanted_records(stream: StepStream, num_steps: int, epoch: int = 0, epoch_step: int = 0) -> Wanted:
    """The records with images in this rank's rows of the next ``num_steps`` steps, each once.

    Args:
        epoch, epoch_step: where the run stands.
    """
    is_wanted = [np.zeros(len(index.rows), dtype=bool) for index in stream.indexes]
    given = [number > 0 for number in stream.mixture.counts(stream.indexes)]
    for sources, entries in _steps(stream, num_steps, epoch, epoch_step):
        for place in np.unique(sources).tolist():
            is_wanted[place][entries[sources == place]] = True
        if all(found.all() for found, gives in zip(is_wanted, given, strict=True) if gives):
            break
    return _wanted(stream, is_wanted)


def num_image_uses(stream: StepStream, num_steps: int) -> int:
    """About how many images all ranks read in so many steps, each counted as often as it is read."""
    counts = stream.mixture.counts(stream.indexes)
    pairs = [(count, index) for count, index in zip(counts, stream.indexes, strict=True) if count]
    images = sum(count * float(index.num_images.mean()) for count, index in pairs)
    return round(num_steps * stream.global_batch_size * images / sum(counts))


def everyones(wanted: Wanted, rank: int, world: int) -> Wanted:
    """This rank's part of records that all ranks want: neighbours, which may be about one image, stay together."""
    mine = np.arange(len(wanted)) * world // max(1, len(wanted)) == rank
    return Wanted(wanted.places[mine], wanted.rows[mine], wanted.num_images[mine], wanted.num_different)


def _steps(stream: StepStream, num_steps: int, epoch: int, epoch_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sources and entries of what is read: an epoch at a time, or this rank's share of a step."""
    while num_steps > 0:
        plan = stream.mixture.plan(stream.indexes, epoch)
        here = min(num_steps, stream.steps_in_epoch(epoch) - epoch_step)
        size = stream.global_batch_size
        if stream.world == 1:
            read = slice(epoch_step * size, (epoch_step + here) * size)
            yield plan.source[read], plan.entry[read]
        else:
            for number in range(epoch_step, epoch_step + here):
                step = slice(number * size, (number + 1) * size)
                seats = balance_and_pack(
                    plan.length[step].tolist(),
                    plan.num_images[step].tolist(),
                    stream.tokens_per_micro_batch,
                    stream.world,
                    stream.cost,
                )[stream.rank]
                mine = np.asarray([position for row in seats for position in row], dtype=np.int64)
                yield plan.source[step][mine], plan.entry[step][mine]
        num_steps, epoch, epoch_step = num_steps - here, epoch + 1, 0


def _wanted(stream: StepStream, is_wanted: list[np.ndarray]) -> Wanted:
    places, rows, images, num_different = [], [], [], 0
    for place, (index, wanted) in enumerate(zip(stream.indexes, is_wanted, strict=True)):
        wanted = wanted & (index.num_images > 0)
        order = np.argsort(index.rows[wanted], kind="stable")
        rows.append(index.rows[wanted][order])
        places.append(np.full(len(rows[-1]), place, dtype=np.int64))
        images.append(index.num_images[wanted][order].astype(np.int64))
        num_different += len(np.unique(index.image_ids[np.repeat(wanted, index.num_images)]))
    return Wanted(np.concatenate(places), np.concatenate(rows), np.concatenate(images), num_different)
