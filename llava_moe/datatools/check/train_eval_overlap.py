"""Which items of evaluation sets stand in a mixture: their image, or their image and question.

The other way round than ``leaks.py``, which names the records: here the items are named, so that a score can be taken
without them. Images and questions are known again as there, by the same functions.

Shape letters: m images of a view's records, d different images of the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_moe.datatools.check.eval_sets import AskedItem, AskedSet
from llava_moe.datatools.check.image_table import Gallery
from llava_moe.datatools.check.pictures import Picture
from llava_moe.datatools.check.run_check import Progress
from llava_moe.datatools.check.scan import CHUNK, PICTURES, CheckJob, Scanned, Stretch, look, look_asked, scan
from llava_moe.datatools.check.sources import Trouble, image_root_trouble
from llava_moe.datatools.check.stage_view import View
from llava_moe.datatools.check.workers import Workers

IMAGE = "image"
IMAGE_AND_QUESTION = "image and question"


@dataclass
class TrainedOn:
    """What of the sets was found in the mixture.

    Attributes:
        items: set to item to :data:`IMAGE` or :data:`IMAGE_AND_QUESTION`.
        num_unseen: set to images of it that could not be opened, and so were not looked for.
        troubles: sources whose images could not be looked at.
    """

    items: dict[str, dict[str, str]] = field(default_factory=dict)
    num_unseen: dict[str, int] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    num_records: int = 0
    num_images: int = 0


def find_trained(
    views: Sequence[View], asked: Sequence[AskedSet], num_processes: int = 1, progress: Progress | None = None
) -> TrainedOn:
    """Look for the items of evaluation sets in a mixture; every different image of both is opened once.

    Sources are read whole: records that a cap, a held-out share or a list kept from training count too.
    """
    told = [image_root_trouble(view) for view in views]
    found = TrainedOn(troubles=[trouble for trouble in told if trouble is not None])
    views = [view for view, trouble in zip(views, told, strict=True) if trouble is None]
    found.num_records = sum(len(view.records) for view in views)
    job = CheckJob(
        tuple(views),
        frozenset(question for one in asked for item in one.items for question in item.questions),
        tuple(picture for one in asked for picture in one.pictures),
    )
    workers = Workers(job, num_processes)
    images, pairs = _read_mixture(job, workers, found, progress) if views else (set(), set())
    places = range(0, len(job.pictures), PICTURES)
    tasks = [tuple(range(start, min(start + PICTURES, len(job.pictures)))) for start in places]
    pictures = [picture for part in (workers.run(look_asked, tasks) if views else ()) for picture in part]
    start = 0
    for one in asked:
        own = pictures[start : start + len(one.pictures)]
        found.items[one.name] = {
            item.name: kind for item in one.items if own and (kind := _kind_of(item, own, images, pairs)) is not None
        }
        found.num_unseen[one.name] = sum(picture.fault is not None for picture in own)
        start += len(one.pictures)
    return found


def _kind_of(item: AskedItem, pictures: Sequence[Picture], images: set[int], pairs: set[tuple[int, int]]) -> str | None:
    hashes = {known for place in item.pictures for known in (pictures[place].content, pictures[place].pixels) if known}
    if any((image, question) in pairs for image in hashes for question in item.questions):
        return IMAGE_AND_QUESTION
    return IMAGE if hashes & images else None


def _read_mixture(
    job: CheckJob, workers: Workers[CheckJob], found: TrainedOn, progress: Progress | None
) -> tuple[set[int], set[tuple[int, int]]]:
    """Hashes of the mixture's images, and of those with each question of the sets that is asked about them."""
    by_view = _scan_all(job, workers, found.num_records, progress)
    rows = [_joined([one.image_rows for one in scanned], np.int64) for scanned in by_view]
    keys = [_joined([one.image_keys for one in scanned], np.uint64) for scanned in by_view]
    places = [_joined([one.image_places for one in scanned], np.int16) for scanned in by_view]
    gallery = Gallery.of(keys, rows, places)
    found.num_images = len(gallery)
    tasks, of_tasks = gallery.wanted(np.arange(len(gallery)), len(job.views))
    done = 0
    for numbers, seen in zip(of_tasks, workers.run(look, tasks), strict=True):
        for number, one in zip(numbers.tolist(), seen, strict=True):
            gallery.enter(number, one.picture, one.path)
        done += len(seen)
        if progress is not None:
            progress("images", done, len(gallery))
    opened = gallery.is_opened_d
    images = {*gallery.contents_d[opened].tolist(), *gallery.pixels_d[opened].tolist()}
    pairs: set[tuple[int, int]] = set()
    for scanned, rows_m, keys_m in zip(by_view, rows, keys, strict=True):
        pairs |= _pairs(scanned, rows_m, gallery.find(keys_m), gallery)
    return images, pairs


def _scan_all(job: CheckJob, workers: Workers[CheckJob], total: int, progress: Progress | None) -> list[list[Scanned]]:
    stretches = [
        Stretch(number, start, min(start + CHUNK, len(view.records)))
        for number, view in enumerate(job.views)
        for start in range(0, len(view.records), CHUNK)
    ]
    by_view: list[list[Scanned]] = [[] for _ in job.views]
    done = 0
    for stretch, scanned in zip(stretches, workers.run(scan, stretches), strict=True):
        by_view[stretch.view].append(scanned)
        done += stretch.stop - stretch.start
        if progress is not None:
            progress("records", done, total)
    return by_view


def _joined(parts: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=kind), *parts])


def _pairs(
    scanned: Sequence[Scanned], rows_m: np.ndarray, images_m: np.ndarray, gallery: Gallery
) -> set[tuple[int, int]]:
    asked: dict[int, list[int]] = {}
    for one in scanned:
        for row, question in zip(one.asked_rows.tolist(), one.asked.tolist(), strict=True):
            asked.setdefault(row, []).append(question)
    pairs = set()
    for row, image in zip(rows_m.tolist(), images_m.tolist(), strict=True):
        if row in asked and gallery.is_opened_d[image]:
            for known in (int(gallery.contents_d[image]), int(gallery.pixels_d[image])):
                pairs |= {(known, question) for question in asked[row]}
    return pairs
