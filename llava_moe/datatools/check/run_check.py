"""The check of a mixture: read every record, open every image once, join, and account for it.

Memory holds a few 64-bit hashes a record and an image, and one entry for each bad record: nothing else grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_moe.data.quarantine import TOO_LONG
from llava_moe.datatools.check.eval_sets import AskedSet
from llava_moe.datatools.check.fault_kinds import is_fault
from llava_moe.datatools.check.findings import Findings
from llava_moe.datatools.check.image_table import Gallery
from llava_moe.datatools.check.join import Hashes, join
from llava_moe.datatools.check.known_faults import Known, KnownFault
from llava_moe.datatools.check.leaks import Leaks
from llava_moe.datatools.check.pictures import Picture
from llava_moe.datatools.check.scan import CHUNK, PICTURES, CheckJob, Scanned, Seen, Stretch, look, look_asked, scan
from llava_moe.datatools.check.sources import (
    Trouble,
    count_trouble,
    image_root_trouble,
    rejected_trouble,
    shard_places,
    shard_trouble,
    split_trouble,
)
from llava_moe.datatools.check.stage_view import View
from llava_moe.datatools.check.workers import Workers
from llava_moe.errors import UserError

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is."""


@dataclass
class Checked:
    """What a check found.

    Attributes:
        findings: one for each view, in their order.
        troubles: what concerns sources as a whole.
        repairs: known faults of published sets that were met, by the view's label and the fault's name.
        num_images: images that records show, repeats counted; ``num_distinct``: different ones; ``num_opened``: those
            that were opened, fewer where a sample was asked for.
        unseen: a line for each evaluation set of which images do not open.
        seconds: by part of the work.
    """

    findings: list[Findings]
    troubles: list[Trouble] = field(default_factory=list)
    repairs: dict[tuple[str, str], KnownFault] = field(default_factory=dict)
    num_images: int = 0
    num_distinct: int = 0
    num_opened: int = 0
    unseen: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def num_records(self) -> int:
        """Records of all views."""
        return sum(len(one.view.records) for one in self.findings)


def check_mix(
    views: Sequence[View],
    asked: Sequence[AskedSet] = (),
    expected: Mapping[str, int] | None = None,
    known: Known | None = None,
    num_processes: int = 1,
    num_images: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Checked:
    """Check views.

    Args:
        asked: evaluation sets that the mixture must not hold.
        expected: records published, by the view's label.
        known: by the view's label, what explains an image's fault.
        num_images: open so many images, drawn by ``seed``; None opens all.

    Raises:
        UserError: a source that has changed meanwhile, an evaluation set of which no image opens, a worker that died.
    """
    views, troubles = _settle_roots(views)
    expected = expected or {}
    for view in views:
        told = [count_trouble(view, expected.get(view.label)), rejected_trouble(view), split_trouble(view)]
        troubles += [trouble for trouble in told if trouble is not None]
    job = CheckJob(
        tuple(views),
        frozenset(question for one in asked for item in one.items for question in item.questions),
        tuple(picture for one in asked for picture in one.pictures),
    )
    checked = Checked([Findings(view) for view in views], troubles)
    workers = Workers(job, num_processes)
    started = time.monotonic()
    pictures = _look_asked(workers, len(job.pictures), progress)
    checked.unseen = _unseen(asked, pictures)
    checked.seconds["evaluation sets"] = time.monotonic() - started
    started = time.monotonic()
    hashes = _scan_all(job, workers, checked, progress)
    checked.seconds["records"] = time.monotonic() - started
    started = time.monotonic()
    gallery = _look_all(job, workers, hashes, checked, num_images, seed, known or {}, progress)
    checked.seconds["images"] = time.monotonic() - started
    checked.troubles += [
        trouble for trouble in workers.run(shard_trouble, shard_places(job.views)) if trouble is not None
    ]
    started = time.monotonic()
    join(job, checked.findings, hashes, gallery, Leaks(asked, pictures))
    checked.seconds["joining"] = time.monotonic() - started
    for one in checked.findings:
        if one.num_bad + len(one.dropped) >= len(one.view.records):
            checked.troubles.append(Trouble(one.view.label, "nothing_usable", _why_nothing(one)))
    return checked


def _why_nothing(findings: Findings) -> str:
    """What most often leaves the records of a view out, each with what its first case says to do."""
    kinds = [kind for kind, count in findings.counts.most_common() if count and (is_fault(kind) or kind == TOO_LONG)]
    return "; ".join(f"{kind} {findings.counts[kind]:,} ({findings.shown[kind][0].detail})" for kind in kinds[:3])


def _settle_roots(views: Sequence[View]) -> tuple[list[View], list[Trouble]]:
    """Views with a wrong image folder look for no image: one fault of the source, not one of each record."""
    settled, troubles = [], []
    for view in views:
        trouble = image_root_trouble(view)
        if trouble is not None:
            troubles.append(trouble)
        settled.append(view if trouble is None else view.without_images())
    return settled, troubles


def _scan_all(job: CheckJob, workers: Workers[CheckJob], checked: Checked, progress: Progress | None) -> list[Hashes]:
    stretches = [
        Stretch(number, start, min(start + CHUNK, len(view.records)))
        for number, view in enumerate(job.views)
        for start in range(0, len(view.records), CHUNK)
    ]
    by_view: list[list[Scanned]] = [[] for _ in job.views]
    total, done = checked.num_records, 0
    for stretch, scanned in zip(stretches, workers.run(scan, stretches), strict=True):
        by_view[stretch.view].append(scanned)
        _enter(checked.findings[stretch.view], scanned)
        done += stretch.stop - stretch.start
        if progress is not None:
            progress("records", done, total)
    return [_hashes(scanned) for scanned in by_view]


def _enter(findings: Findings, scanned: Scanned) -> None:
    findings.add(scanned.faults)
    findings.waiting += scanned.own_faults
    scanned.faults.clear()
    scanned.own_faults.clear()
    findings.dropped |= {findings.view.records.number(row) for row in scanned.dropped}
    for kind, count in scanned.notes.items():
        findings.note(kind, count, [found for found in scanned.shown if found.kind == kind])


def _hashes(scanned: Sequence[Scanned]) -> Hashes:
    def joined(parts: Iterable[np.ndarray], kind: type[np.generic]) -> np.ndarray:
        return np.concatenate([np.empty(0, dtype=kind), *parts])

    return Hashes(
        joined((one.texts for one in scanned), np.uint64),
        joined((one.ids for one in scanned), np.uint64),
        joined((one.image_rows for one in scanned), np.int64),
        joined((one.image_keys for one in scanned), np.uint64),
        joined((one.image_places for one in scanned), np.int16),
        joined((one.asked_rows for one in scanned), np.int64),
        joined((one.asked for one in scanned), np.uint64),
    )


def _look_all(
    job: CheckJob,
    workers: Workers[CheckJob],
    hashes: Sequence[Hashes],
    checked: Checked,
    num_images: int | None,
    seed: int,
    known: Known,
    progress: Progress | None,
) -> Gallery:
    """Open every different image once, or a sample of them."""
    gallery = Gallery.of(
        [one.keys_m for one in hashes], [one.rows_m for one in hashes], [one.places_m for one in hashes]
    )
    is_looked_for = np.asarray([view.check_images for view in job.views], dtype=bool)
    chosen = np.flatnonzero(is_looked_for[gallery.views_d])
    if num_images is not None and num_images < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, num_images, replace=False))
    tasks, of_tasks = gallery.wanted(chosen, len(job.views))
    checked.num_images = sum(len(one.keys_m) for one in hashes)
    checked.num_distinct, checked.num_opened = len(gallery), len(chosen)
    done = 0
    for task, images, seen in zip(tasks, of_tasks, workers.run(look, tasks), strict=True):
        for image, one in zip(images.tolist(), seen, strict=True):
            gallery.enter(image, one.picture, one.path)
            _enter_image(checked, task.view, one, known)
        done += len(seen)
        if progress is not None:
            progress("images", done, len(chosen))
    return gallery


def _enter_image(checked: Checked, view: int, seen: Seen, known: Known) -> None:
    """Count an image's notes, and the known faults of published sets that explain what is wrong with it."""
    findings = checked.findings[view]
    findings.add(seen.found(kind, kind, detail) for kind, detail in seen.picture.notes)
    told = {kind for kind, _ in seen.picture.notes} | set((seen.picture.fault or ())[:2])
    lookup = known.get(findings.view.label)
    repairs = {repair.name: repair for kind in sorted(told) if lookup and (repair := lookup(seen.path, kind))}
    for repair in repairs.values():
        checked.repairs.setdefault((findings.view.label, repair.name), KnownFault(repair, seen.path)).count += 1


def _look_asked(workers: Workers[CheckJob], num_pictures: int, progress: Progress | None) -> list[Picture]:
    """Open the images of the evaluation sets."""
    tasks = [tuple(range(start, min(start + PICTURES, num_pictures))) for start in range(0, num_pictures, PICTURES)]
    pictures: list[Picture] = []
    for found in workers.run(look_asked, tasks):
        pictures += found
        if progress is not None:
            progress("evaluation images", len(pictures), num_pictures)
    return pictures


def _unseen(asked: Sequence[AskedSet], pictures: Sequence[Picture]) -> list[str]:
    """A line for each evaluation set of which images do not open: leaks by them cannot be found.

    Raises:
        UserError: none of a set's images opens.
    """
    lines, start = [], 0
    for one in asked:
        own = pictures[start : start + len(one.pictures)]
        start += len(one.pictures)
        faults = [picture.fault for picture in own if picture.fault is not None]
        if not faults:
            continue
        told = f"{len(faults):,} of its {len(own):,} images do not open ({faults[0][2]})"
        if len(faults) == len(own):
            raise UserError(
                f"against={one.name}: {told}; give the folder that its image paths start from as against_images="
            )
        lines.append(f"Evaluation set {one.name}: {told}; leaks by these were not looked for.")
    return lines
