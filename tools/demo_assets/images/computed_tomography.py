"""Slices of two lung CT volumes and two brain MRI volumes (the test cases of pyradiomics).

The second volume of each is held out: a block of it is val, the rest test.
"""

from __future__ import annotations

from collections.abc import Iterator

import nrrd
import numpy as np

from tools.demo_assets.images.gray import gray_image
from tools.demo_assets.images.item import MEDICAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf

WINDOWS = {"Lung window": (-1350.0, 150.0), "Soft tissue window": (-160.0, 240.0)}
AIR_HU = -500
CHEST_SHARE, LARGE_SHARE = 0.14, 0.34
LICENCE = "BSD-3-Clause"


def _split(case: int, index: int, count: int) -> str | None:
    if case == 1:
        return "train"
    place = index / count
    return "val" if place < 0.25 else None if index < 0.25 * count + 3 else "test"


def read_lung_slices(shelf: Shelf) -> Iterator[Item]:
    """Every axial slice in both windows in train; in the held-out volume the windows alternate."""
    for case in (1, 2):
        values, _ = nrrd.read(str(shelf.one("pyradiomics", f"**/data/lung{case}_image.nrrd")))
        for index in range(values.shape[2]):
            split = _split(case, index, values.shape[2])
            for number, window in enumerate(WINDOWS):
                if split and (case == 1 or index % 2 == number):
                    yield _lung_item(case, index, split, window, values[:, :, index].T)


def _lung_item(case: int, index: int, split: str, window: str, hounsfield: np.ndarray) -> Item:
    height, width = hounsfield.shape
    inner = hounsfield[height // 8 : -height // 8, width // 10 : -width // 10]
    air = (inner < AIR_HU) & (inner > -1000)
    share = float(air.mean())
    pairs = [
        Pair("Which imaging modality is this?", "CT", "modality"),
        Pair("In which plane is this slice?", "Axial", "plane"),
        Pair("Is this a lung window or a soft tissue window?", window, "CT window"),
    ]
    facts = []
    if share > CHEST_SHARE:
        # Below the lungs the same scan shows the abdomen; those slices are asked neither for chest nor for lung.
        pairs.append(Pair("Which part of the body is shown?", "Chest", "body part"))
        facts.append("of the chest")
    if share > CHEST_SHARE and abs(share - LARGE_SHARE) > 0.02:
        large = share > LARGE_SHARE
        pairs.append(
            Pair("Does air-filled lung fill more than a third of the middle of the image?", yes_no(large), "lung share")
        )
        facts.append(f"with lung over {'more' if large else 'less'} than a third of its middle")
    low, high = WINDOWS[window]
    caption = f"An axial CT slice {', '.join([*facts, f'in a {window.lower()}'])}."
    return Item(
        f"lung{case}-{index:03d}-{window.split()[0].lower()}",
        gray_image(hounsfield, low, high),
        MEDICAL,
        f"lung-ct-{case}",
        "radiology",
        LICENCE,
        split,
        caption,
        tuple(pairs),
    )


def read_contrast_brain_slices(shelf: Shelf) -> Iterator[Item]:
    """Axial slices of contrast-enhanced brain MRI."""
    for case in (1, 2):
        values, _ = nrrd.read(str(shelf.one("pyradiomics", f"**/data/brain{case}_image.nrrd")))
        high = float(np.percentile(values, 99.7))
        for index in range(values.shape[2]):
            split = _split(case, index, values.shape[2])
            if split is None or (values[:, :, index] > 0.1 * high).mean() < 0.06:
                continue
            pairs = (
                Pair("Which imaging modality is this?", "MRI", "modality"),
                Pair("In which plane is this slice?", "Axial", "plane"),
                Pair("Which part of the body is shown?", "Head", "body part"),
                Pair("Is the skull visible?", "Yes", "skull"),
                Pair("Is this a human or a macaque?", "Human", "species"),
            )
            yield Item(
                f"brain{case}-{index:03d}",
                gray_image(values[:, :, index].T, 0, high),
                MEDICAL,
                f"contrast-brain-{case}",
                "radiology",
                LICENCE,
                split,
                "An axial MRI slice of a human head, with the skull.",
                pairs,
            )
