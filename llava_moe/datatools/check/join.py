"""Records and images joined: bad images to their records, copies, and what stands in evaluation sets.

Shape letters: n records of a view, m images of its records, d different images of the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.datatools.check.duplicate_hashes import copies, join_images, same_but_other
from llava_moe.datatools.check.findings import Findings, entries_of, name_rows
from llava_moe.datatools.check.image_table import Gallery
from llava_moe.datatools.check.leaks import Leaks
from llava_moe.datatools.check.scan import NUM_SHOWN, CheckJob, Found


@dataclass(frozen=True)
class Hashes:
    """What is kept of a view's n records and their m images; see ``Scanned``."""

    texts_n: np.ndarray
    ids_n: np.ndarray
    rows_m: np.ndarray
    keys_m: np.ndarray
    places_m: np.ndarray
    asked_rows: np.ndarray
    asked: np.ndarray


def join(job: CheckJob, findings: Sequence[Findings], hashes: Sequence[Hashes], gallery: Gallery, leaks: Leaks) -> None:
    """Enter into each view's findings what takes records and images together."""
    samples: list[np.ndarray] = []
    for number, (one, own) in enumerate(zip(findings, hashes, strict=True)):
        images_m = gallery.find(own.keys_m)
        is_bad_n = _enter_bad_images(one, own, images_m, gallery.bad(job.reader_of(number)))
        one.add(one.waiting)
        contents_m = gallery.contents_d[images_m]
        both, alone = leaks.find(own.rows_m, contents_m, gallery.pixels_d[images_m], own.asked_rows, own.asked)
        _enter_rows(one, "leak", both)
        _enter_rows(one, "leak_image", alone)
        usable = np.flatnonzero((own.texts_n != 0) & ~is_bad_n)
        samples.append(_enter_repeats(one, own, contents_m, usable))
    _enter_across(findings, samples)
    _enter_same_images(findings, gallery)


def _enter_bad_images(
    findings: Findings, own: Hashes, images_m: np.ndarray, bad: dict[int, tuple[str, str, str, str]]
) -> np.ndarray:
    """Faults of the records that show a bad image; bool [n], which they are."""
    is_bad_m = np.isin(images_m, np.fromiter(bad, dtype=np.int64, count=len(bad)))
    rows, first = np.unique(own.rows_m[is_bad_m], return_index=True)
    why = [bad[image] for image in images_m[is_bad_m][first].tolist()]
    findings.add(
        Found(row, entry.number, entry.id, *told)
        for (row, entry), told in zip(entries_of(findings.view, rows), why, strict=True)
    )
    is_bad_n = np.zeros(len(own.texts_n), dtype=bool)
    is_bad_n[rows] = True
    return is_bad_n


def _enter_rows(findings: Findings, kind: str, details: dict[int, str]) -> None:
    rows = np.asarray(sorted(details), dtype=np.int64)
    findings.add(name_rows(findings.view, rows, kind, [details[row] for row in rows.tolist()]))


def _enter_repeats(findings: Findings, own: Hashes, contents_m: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Copies inside a source; uint64 [n], what each record is as a sample (0: a copy, or unusable)."""
    samples_n = join_images(own.texts_n, own.rows_m, own.places_m, contents_m)
    images_n = join_images(np.zeros_like(own.texts_n), own.rows_m, own.places_m, contents_m)
    rows, firsts = copies(samples_n, usable)
    numbers = [findings.view.records.number(first) for first in firsts.tolist()]
    kind = "meant_duplicate" if findings.view.repeats_on_purpose else "duplicate"
    findings.add(name_rows(findings.view, rows, kind, [f"the same as record {number}" for number in numbers]))
    with_images = usable[images_n[usable] != 0]
    _note_rows(findings, "same_text", same_but_other(own.texts_n, samples_n, with_images))
    _note_rows(findings, "image_reused", same_but_other(images_n, samples_n, with_images))
    _note_rows(findings, "repeated_id", copies(own.ids_n, np.arange(len(own.ids_n)))[0])
    kept_n = np.zeros_like(samples_n)
    kept_n[usable] = samples_n[usable]
    kept_n[rows] = 0
    return kept_n


def _note_rows(findings: Findings, kind: str, rows: np.ndarray, detail: str = "") -> None:
    """Count rows (ascending) under a note, the first with their names."""
    first = rows[:NUM_SHOWN]
    findings.note(kind, len(rows), name_rows(findings.view, first, kind, [detail] * len(first)))


def _enter_across(findings: Sequence[Findings], samples: Sequence[np.ndarray]) -> None:
    """Records that another source of the same stage holds before."""
    before: dict[str, list[np.ndarray]] = {}
    for one, own in zip(findings, samples, strict=True):
        stage = one.view.stages[0]
        if stage in before:
            known = np.concatenate(before[stage])
            _note_rows(one, "duplicate_across", np.flatnonzero(np.isin(own, known[known != 0]) & (own != 0)))
        for stage in one.view.stages:
            before.setdefault(stage, []).append(own)


def _enter_same_images(findings: Sequence[Findings], gallery: Gallery) -> None:
    """Files with the content of another, and pictures with the pixels of another."""
    opened = np.flatnonzero(gallery.is_opened_d)
    opened = opened[np.lexsort((gallery.rows_d[opened], gallery.views_d[opened]))]
    again, _ = copies(gallery.contents_d, opened)
    # Bytes in records are told apart by content already: what is there twice are files.
    by_pixels, _ = copies(gallery.pixels_d, opened[~np.isin(opened, again)])
    for kind, places in (("same_image", again), ("same_pixels", by_pixels)):
        for number, one in enumerate(findings):
            _note_rows(one, kind, np.sort(gallery.rows_d[places[gallery.views_d[places] == number]]))
