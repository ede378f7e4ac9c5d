"""Slices of MRI volumes of heads and brains.

Every volume is read in its closest canonical orientation (axes: right, anterior, superior). Held-out blocks are the
same share of each axis in all volumes, so that near-copies (Colin27 with and without skull) are cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import nibabel
import numpy as np

from tools.demo_assets.images.gray import gray_image
from tools.demo_assets.images.item import MEDICAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import fraction, split_of_place

PLANES = ("Sagittal", "Coronal", "Axial")
# Shares of the axis between the first and the last slice with tissue.
BLOCKS = ((0.14, 0.21, "test"), (0.28, 0.32, "val"), (0.46, 0.54, "test"), (0.66, 0.70, "val"), (0.79, 0.86, "test"))
GAP_SLICES = 3
FILLED = 1 / 3
HALVES = (("left", "right"), ("back", "front"), ("lower", "upper"))
MODALITY = "Which imaging modality is this?"


@dataclass(frozen=True)
class Volume:
    """One volume and what is known about it; `show` is what its bright pixels mean."""

    name: str
    package: str
    pattern: str
    licence: str
    step: int
    body_part: str
    species: str | None
    skull: bool | None
    show: str


VOLUMES = (
    Volume("colin27", "mricron-data", "**/ch2.nii.gz", "BSD-3-Clause", 2, "Head", "Human", True, "T1"),
    Volume("colin27-stripped", "mricron-data", "**/ch2bet.nii.gz", "BSD-3-Clause", 3, "Brain", "Human", False, "T1"),
    Volume("macaque", "mricron-data", "**/inia19-t1-brain.nii.gz", "BSD-3-Clause", 2, "Brain", "Macaque", False, "T1"),
    Volume("icbm152", "nilearn", "**/mni_icbm152_t1_tal*.nii.gz", "ICBM permissive", 3, "Brain", "Human", False, "T1"),
    Volume(
        "icbm152-grey",
        "nilearn",
        "**/mni_icbm152_gm_tal*.nii.gz",
        "ICBM permissive",
        4,
        "Brain",
        None,
        None,
        "Grey matter",
    ),
    Volume(
        "icbm152-white",
        "nilearn",
        "**/mni_icbm152_wm_tal*.nii.gz",
        "ICBM permissive",
        4,
        "Brain",
        None,
        None,
        "White matter",
    ),
    Volume("mean-head", "pydeface", "**/mean_reg2mean.nii.gz", "MIT", 3, "Head", "Human", True, "T1"),
)


def read_brain_volumes(shelf: Shelf) -> Iterator[Item]:
    """Every `step`-th slice with enough tissue, in three planes."""
    for volume in VOLUMES:
        image = nibabel.as_closest_canonical(nibabel.load(shelf.one(volume.package, volume.pattern)))
        values = np.asarray(image.dataobj, np.float32).squeeze()
        low, high = np.percentile(values, 1), np.percentile(values[values > np.percentile(values, 1)], 99.5)
        for axis in range(3):
            yield from _slices(volume, values, float(low), float(high), axis, image.header.get_zooms())


def _slices(
    volume: Volume, values: np.ndarray, low: float, high: float, axis: int, zooms: tuple[float, ...]
) -> Iterator[Item]:
    tissue = ((values - low) / (high - low) > 0.15).mean(axis=tuple(other for other in range(3) if other != axis))
    inside = np.flatnonzero(tissue > 0.35 * tissue.max())
    first, last = int(inside[0]), int(inside[-1])
    across, up = (other for other in range(3) if other != axis)
    for index in range(first, last + 1, volume.step):
        place = (index - first) / (last - first + 1)
        split = split_of_place(place, (GAP_SLICES + 0.5) / (last - first + 1), BLOCKS)
        if split is not None:
            pixels = np.flipud(np.take(values, index, axis).T)
            picture = pixels, zooms[up] / zooms[across], (low, high)
            yield _item(volume, axis, index, place, split, picture)


def _item(
    volume: Volume,
    axis: int,
    index: int,
    place: float,
    split: str,
    picture: tuple[np.ndarray, float, tuple[float, float]],
) -> Item:
    name = f"{volume.name}-{PLANES[axis].lower()}-{index:03d}"
    pixels, aspect, (low, high) = picture
    mirrored = fraction("mirror", name) < 0.5
    facing = None
    if axis == 0:
        # In the canonical orientation the front of the head is at the right of a sagittal slice.
        pixels = np.fliplr(pixels) if mirrored else pixels
        facing = "Left" if mirrored else "Right"
    elif axis == 2:
        pixels = np.flipud(pixels) if mirrored else pixels
        facing = "Bottom" if mirrored else "Top"
    plane = PLANES[axis]
    is_map = volume.show != "T1"
    pairs = [] if is_map else [Pair(MODALITY, "MRI", "modality")]
    pairs += [
        Pair("In which plane is this slice?", plane, "plane"),
        Pair("Which part of the body is shown?", volume.body_part, "body part"),
    ]
    facts = [f"of a {volume.species.lower()} {volume.body_part.lower()}" if volume.species else "of a brain"]
    if volume.skull is not None:
        pairs.append(Pair("Is the skull visible?", yes_no(volume.skull), "skull"))
        facts.append("with the skull" if volume.skull else "without the skull")
    if volume.species:
        pairs.append(Pair("Is this a human or a macaque?", volume.species, "species"))
    if volume.species != "Macaque":
        pairs.append(
            Pair("Does the picture show T1 intensity, grey matter or white matter?", volume.show, "bright tissue")
        )
        facts.append(f"showing {volume.show if volume.show == 'T1' else volume.show.lower()}")
    if facing:
        pairs.append(Pair("At which edge of the picture is the front of the head?", facing, "front of head"))
        facts.append(f"the front of the head at the {facing.lower()}")
    if axis and abs(place - 0.5) > 0.04:
        half = HALVES[axis][int(place > 0.5)]
        question = (
            "Is the slice in the front or the back half?"
            if axis == 1
            else "Is the slice in the upper or the lower half?"
        )
        pairs.append(Pair(question, half.capitalize(), "slice position"))
        facts.append(f"in the {half} half")
    image = gray_image(pixels, low, high, aspect)
    filled = float((np.asarray(image) > 25).mean())
    if abs(filled - FILLED) > 0.02:
        large = filled > FILLED
        pairs.append(
            Pair("Does the head or brain fill more than a third of the picture?", yes_no(large), "filled share")
        )
        facts.append(f"filling {'more' if large else 'less'} than a third of the picture")
    article = "A coronal" if axis == 1 else "A sagittal" if axis == 0 else "An axial"
    return Item(
        name,
        image,
        MEDICAL,
        volume.name,
        "radiology",
        volume.licence,
        split,
        f"{article} MRI slice {', '.join(facts)}.",
        tuple(pairs),
    )
