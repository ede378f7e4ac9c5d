"""Pieces of pages of a real manual (debmake-doc) in six languages."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pypdfium2
from PIL import Image

from tools.demo_assets.images.item import DOCUMENTS, Item, Pair
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import generator, split_of_place

PER_LANGUAGE = {"en": 70, "de": 70, "ru": 150, "zh-cn": 150}
LATIN = ("en", "de")
SCALE = 1.1
TRIES = 8
WIDTH = 160
# Blocks of the share of the pages, the same in all languages, since the languages are translations of each other.
BLOCKS = ((0.20, 0.30, "test"), (0.55, 0.61, "test"), (0.75, 0.83, "val"))


def read_manual_pages(shelf: Shelf) -> Iterator[Item]:
    """Crops of one to five lines of text, 220 points wide, of pages away from the split's borders."""
    for language, wanted in PER_LANGUAGE.items():
        path = shelf.one("debmake-doc", f"usr/share/doc/debmake-doc/debmake-doc.{language}.pdf")
        document = pypdfium2.PdfDocument(path)
        pages = range(12, len(document) - 3)
        rng = generator("pages", language)
        made = 0
        for page in rng.permutation(list(pages)):
            split = split_of_place((int(page) - 12) / len(pages), 0.02, BLOCKS)
            if split is None or made >= wanted:
                continue
            taken = 0
            for crop, lines, text in _crops(document[int(page)], rng):
                script = script_of(text)
                if script and (script == "Latin") == (language in LATIN) and "b'" not in text and taken < 3:
                    made += 1
                    taken += 1
                    yield _item(f"page-{language}-{int(page):03d}-{made:03d}", crop, lines, script, split)


def script_of(text: str) -> str | None:
    """The script of at least 60 % of the letters (kana counts for Japanese, of which 15 % is enough), else None."""
    names = Counter(unicodedata.name(letter, "").split()[0] for letter in text if letter.isalpha())
    total = sum(names.values())
    if total < 6:
        return None
    kana = names["HIRAGANA"] + names["KATAKANA"]
    if kana + names["CJK"] >= 0.6 * total:
        return "Japanese" if kana > 0.15 * total else "Chinese" if kana == 0 else None
    return next((script.capitalize() for script in ("LATIN", "CYRILLIC") if names[script] >= 0.8 * total), None)


def _crops(page: pypdfium2.PdfPage, rng: np.random.Generator) -> Iterator[tuple[Image.Image, int, str]]:
    """Crops of a page with their number of lines and their text; lines are found by the empty rows between them."""
    gray = np.asarray(page.render(scale=SCALE).to_pil().convert("L"))
    layer = page.get_textpage()
    height, width = gray.shape
    left = int(0.11 * width)
    band = gray[int(0.1 * height) : int(0.9 * height), left : left + WIDTH]
    ink = (band < 140).sum(1) > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[0], ink.astype(int), [0]])))
    lines = [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    lines = [line for line in lines if 5 <= line[1] - line[0] <= 15 and (band[line[0] : line[1]] < 140).mean() > 0.04]
    for _ in range(TRIES):
        count = int(rng.integers(1, 6))
        if len(lines) < count + 1:
            continue
        first = int(rng.integers(len(lines) - count))
        chosen = lines[first : first + count]
        if chosen[-1][1] - chosen[0][0] > 100 or any(b[0] - a[1] > 30 for a, b in itertools.pairwise(chosen)):
            continue
        start, stop = chosen[0][0] - 2, chosen[-1][1] + 2
        if (
            start < 0
            or (first + count < len(lines) and lines[first + count][0] < stop)
            or (first and lines[first - 1][1] > start)
        ):
            continue
        canvas = np.full((WIDTH, WIDTH), 255, np.uint8)
        top = (WIDTH - (stop - start)) // 2
        canvas[top : top + stop - start] = band[start:stop]
        upper, lower = (page.get_height() - (int(0.1 * height) + row) / SCALE for row in (start, stop))
        yield Image.fromarray(canvas), count, layer.get_text_bounded(left / SCALE, lower, (left + WIDTH) / SCALE, upper)


def _item(name: str, crop: Image.Image, lines: int, script: str, split: str) -> Item:
    pairs = (
        Pair("What type of figure is this?", "Text", "figure type"),
        Pair("In which script is the text written?", script, "script"),
        Pair("How many lines of text are there?", str(lines), "number of text lines"),
    )
    caption = f"A piece of a manual page with {lines} line{'s' if lines > 1 else ''} of text in {script} script."
    return Item(
        name,
        crop,
        DOCUMENTS,
        "debmake-doc",
        "text",
        "Expat",
        split,
        caption,
        pairs,
        lossless=True,
    )
