"""Photographs of animals, monuments, tools and power plants; only files that are public domain, CC0 or CC-BY."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tools.demo_assets.images.colors import color_shares
from tools.demo_assets.images.item import GENERAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import split_of_key

SIZE = 128
ALLOWED = re.compile(r"^(public domain|cc0|cc-by \d)", re.IGNORECASE)
FOLDERS = {
    "fishes": "A fish",
    "monuments": "A building",
    "tools": "A tool",
    "animals": "An animal",
    "egypt": "A building",
    "france": "A building",
    "germany": "A building",
    "india": "A building",
    "usa": "A building",
    "wonders": "A building",
}
NOT_A_BUILDING = ("niagaraFalls", "grandCanyon", "yellowstone", "mountRushmore", "statueOfLiberty", "christTheRedeemer")


def licences_of(readme: str) -> dict[str, tuple[str, str]]:
    """File name -> (licence, author) from a README whose entries give Copyright, License and a list of Files."""
    found = {}
    for entry in re.split(r"\n\s*\n", readme):
        licence = re.search(r"^Licen[sc]e: *(.+)$", entry, re.MULTILINE)
        author = re.search(r"^Copyright: *(.+)$", entry, re.MULTILINE)
        files = entry.split("Files:")[1].split() if "Files:" in entry else []
        for file in files:
            if licence and author:
                found[file] = (licence[1].strip(), author[1].strip())
    return found


def read_photographs(shelf: Shelf) -> Iterator[Item]:
    """Every picture with an allowed licence, cut to its central square's neighbourhood by a plain resize."""
    for readme in shelf.find("gcompris-qt-data", "**/README"):
        licences = licences_of(readme.read_text(errors="replace"))
        for file, (licence, author) in sorted(licences.items()):
            path = readme.parent / file
            group = FOLDERS.get(path.parent.name)
            allowed = ALLOWED.match(licence) and path.stem not in NOT_A_BUILDING
            if path.suffix == ".webp" and path.exists() and allowed and group:
                yield _item(path, group, licence, author)


def _item(path: Path, group: str, licence: str, author: str) -> Item:
    image = Image.open(path)
    if image.mode != "RGB":
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        canvas.alpha_composite(rgba)
        image = canvas.convert("RGB")
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    name = re.sub(r"\d+$", "", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", path.stem)).lower().replace("_", " ").strip()
    shares = color_shares(np.asarray(image))
    pairs = [Pair("What kind of picture is this?", "A photograph", "picture kind")]
    pairs.append(Pair("What does the photo show?", group, "photo subject"))
    sky = shares["blue"]
    if sky > 0.25 or sky < 0.03:
        pairs.append(Pair("Is a large part of the photo blue?", yes_no(sky > 0.25), "photo blue"))
    caption = f"A photo of {group.lower()}: {name}{', a large part is blue' if sky > 0.25 else ''}."
    return Item(
        f"photo-{path.parent.name}-{path.stem}",
        image,
        GENERAL,
        "gcompris",
        "photograph",
        f"{licence} ({author})" if licence.startswith("CC-BY") else licence.replace("Public Domain", "public domain"),
        split_of_key("photo", path.stem.lower().rstrip("0123456789") if group == "A building" else path.stem),
        caption,
        tuple(pairs),
    )
