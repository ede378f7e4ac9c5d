"""Emoji: rendered pictures of things with a name, a category and a measured colour."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tools.demo_assets.images.colors import color_shares, main_color
from tools.demo_assets.images.item import GENERAL, Item, Pair, yes_no
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import fraction, split_of_key

SIZE = 128
CATEGORIES = {
    0: "Smileys and emotion",
    1: "People and body",
    3: "Animals and nature",
    4: "Food and drink",
    5: "Travel and places",
    6: "Activities",
    7: "Objects",
    8: "Symbols",
}
# Subgroups of emojibase that answer a finer question inside their category.
ANIMALS = {34: "A mammal", 35: "A bird", 36: "An amphibian", 37: "A reptile", 38: "A sea animal", 39: "A bug"}
PLANTS = (40, 41)
FRUIT_AND_VEGETABLES = (42, 43)
VEHICLES = {54: "On land", 55: "On water", 56: "In the air"}
BUILDINGS = (50, 51, 52, 53, 57)
HANDS = (16, 17, 18, 19, 20, 21)
FACES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
SIGNS = tuple(range(83, 97))
FOOD = (42, 43, 44, 45, 46, 47)
VARIANT_WORDS = re.compile(
    r"\b(man|woman|person|men|women|people|boy|girl|boys|girls|child|adult|baby|old|older|medium|left|right|up|down|"
    r"red|orange|yellow|green|blue|purple|pink|brown|grey|gray|white|black|light|large|small|one|two|three|four|five|six|"
    r"seven|eight|nine|ten|eleven|twelve|thirty|o\u2019clock|clock|with|facing|keycap|button|no)\b|[^a-z ]"
)


def read_emoji(shelf: Shelf) -> Iterator[Item]:
    """All emoji but flags and skin tones."""
    for _, item in read_emoji_rows(shelf):
        yield item


def read_emoji_rows(shelf: Shelf) -> Iterator[tuple[dict, Item]]:
    """Emojibase's row beside each item. Variants of one thing (man, woman, colours, hours) share a split."""
    table = json.loads(shelf.one("emojibase-data", "package/en/data.json").read_text())
    pictures = {path.stem: path for path in shelf.find("@lobehub/fluent-emoji-3d", "package/assets/*.webp")}
    seen: dict[str, int] = {}
    for row in table:
        code = row["hexcode"].lower()
        path = pictures.get(code) or pictures.get(code.replace("-fe0f", ""))
        if row.get("group") not in CATEGORIES or path is None:
            continue
        key = " ".join(VARIANT_WORDS.sub(" ", row["label"].lower()).split()) or "variant"
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 6:
            continue
        picture = Image.open(path).convert("RGBA").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        yield row, _item(row, key, picture)


def _item(row: dict, key: str, picture: Image.Image) -> Item:
    canvas = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    canvas.alpha_composite(picture)
    image = canvas.convert("RGB")
    pixels = np.asarray(picture)
    shares = color_shares(np.asarray(image), pixels[..., 3] > 200)
    color = main_color(shares, 0.5, 0.2)
    label, category = row["label"], CATEGORIES[row["group"]]
    caption = f"An emoji of {label}, in the category {category.lower()}"
    caption += f", mainly {color}" if color else ""
    fine, fine_caption = _fine_pairs(row)
    pairs = [
        Pair("What kind of picture is this?", "An emoji", "picture kind"),
        Pair("Which category does this emoji belong to?", category, "emoji category"),
        _category_question(row),
        *fine,
    ]
    if color:
        pairs.append(Pair("What is the main colour of the emoji?", color.capitalize(), "emoji colour"))
    if fraction("name", row["hexcode"]) < 0.25:
        pairs.append(Pair("What does this emoji show?", label[:1].upper() + label[1:], "emoji name", closed=False))
    return Item(
        f"emoji-{row['hexcode'].lower()}",
        image,
        GENERAL,
        "fluent-emoji",
        "emoji",
        "MIT",
        split_of_key("emoji", key),
        f"{caption}{fine_caption}.",
        tuple(pairs),
    )


def _category_question(row: dict) -> Pair:
    """Is it of this category? Its own for half of the emoji, another one for the rest."""
    own, others = row["group"], [group for group in CATEGORIES if group != row["group"]]
    truth = fraction("own category", row["hexcode"]) < 0.5
    asked = own if truth else others[int(fraction("other category", row["hexcode"]) * len(others))]
    return Pair(f"Is this emoji in the category {CATEGORIES[asked].lower()}?", yes_no(truth), "is this category")


def _fine_pairs(row: dict) -> tuple[list[Pair], str]:
    """Questions whose negatives come from the same or a near category, so that they are not answered by style alone."""
    group, subgroup = row["group"], row.get("subgroup")
    pairs, caption = [], ""
    if group == 3 and (subgroup in ANIMALS or subgroup in PLANTS):
        pairs.append(
            Pair("Is this an animal or a plant?", "An animal" if subgroup in ANIMALS else "A plant", "animal or plant")
        )
        caption = ", an animal" if subgroup in ANIMALS else ", a plant"
    if subgroup in ANIMALS and group == 3:
        pairs.append(Pair("What kind of animal is this?", ANIMALS[subgroup], "animal kind"))
        caption += f", {ANIMALS[subgroup].lower()}"
    if group == 4 and subgroup in (42, 43, 44, 45, 46, 47, 48):
        fresh = subgroup in FRUIT_AND_VEGETABLES
        pairs.append(Pair("Is this a fruit or a vegetable?", yes_no(fresh), "fruit or vegetable"))
        caption = ", a fruit or vegetable" if fresh else ", not a fruit or vegetable"
    if group == 5 and (subgroup in VEHICLES or subgroup in BUILDINGS):
        pairs.append(
            Pair(
                "Is this about transport or a place?",
                "Transport" if subgroup in VEHICLES else "A place",
                "transport or place",
            )
        )
        caption = ", about transport" if subgroup in VEHICLES else ", a place"
    if group == 5 and subgroup in VEHICLES:
        pairs.append(Pair("Where does one travel with this?", VEHICLES[subgroup], "transport kind"))
        caption += f" {VEHICLES[subgroup].lower()}"
    if group == 1 and (subgroup in HANDS or subgroup in range(23, 31)):
        pairs.append(Pair("Does this show only a hand or hands?", yes_no(subgroup in HANDS), "hand"))
        caption = ", only a hand or hands" if subgroup in HANDS else ", a person"
    if group == 0:
        pairs.append(Pair("Is this a face?", yes_no(subgroup in FACES), "face"))
        caption = ", a face" if subgroup in FACES else ", not a face"
    return pairs, caption
