"""Tables of real rows (chemical elements, cars, countries), drawn by us."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tools.demo_assets.images.canvas import ORDINALS, SIZE
from tools.demo_assets.images.chart_numbers import Numbers
from tools.demo_assets.images.item import DOCUMENTS, Item, Pair, yes_no
from tools.demo_assets.images.splits import generator, split_of_key

COUNTS = {"train": 360, "val": 30, "test": 60}
HEADERS = {"grey": (205, 205, 205), "blue": (165, 200, 245), "green": (175, 225, 175), "orange": (250, 205, 150)}
HIGHLIGHT = (255, 245, 140)
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"


def draw_tables(numbers: Numbers) -> Iterator[Item]:
    """COUNTS tables with two to six rows and two to four columns."""
    for split, count in COUNTS.items():
        for index in range(count):
            yield _item(numbers, split, index)


def _cells(
    numbers: Numbers, split: str, topic: str, rows: int, columns: int, rng: np.random.Generator
) -> list[list[str]]:
    if topic == "elements":
        table = numbers.elements.dropna(subset=["name", "symbol"])
        table = table[[split_of_key("element", name) == split for name in table["name"]]]
        rows_chosen = table.sample(rows, random_state=int(rng.integers(2**31)))
        body = [
            [str(row["symbol"]).strip(), str(row["atomic number"]), str(row["period"]), str(row["standard state"])[:6]]
            for _, row in rows_chosen.iterrows()
        ]
        head = ["Symbol", "No.", "Period", "State"]
    elif topic == "cars":
        table = numbers.cars[[split_of_key("car", row) == split for row in range(len(numbers.cars))]]
        rows_chosen = table.sample(rows, random_state=int(rng.integers(2**31)))
        body = [
            [str(row["name"]).split()[0][:9], f"{row['mpg']:g}", str(row["hp"]), str(row["yr"])]
            for _, row in rows_chosen.iterrows()
        ]
        head = ["Car", "mpg", "hp", "Year"]
    else:
        year = int(rng.choice(numbers.years(split)))
        names = [name for name in numbers.countries(split) if len(name) < 9]
        chosen = rng.choice(names, min(rows, len(names)), replace=False)
        body = [
            [
                str(name),
                f"{numbers.value(name, year, 'life_expectancy'):.0f}",
                f"{numbers.value(name, year, 'fertility'):.1f}",
                f"{numbers.value(name, year, 'population'):.1f}",
            ]
            for name in chosen
        ]
        head = ["Country", "Life", "Births", "Mill."]
    return [row[:columns] for row in [head, *body]]


def _item(numbers: Numbers, split: str, index: int) -> Item:
    rng = generator("table", split, index)
    topic = ("elements", "cars", "gapminder")[index % 3]
    rows, columns = 2 + index // 3 % 5, 2 + int(rng.integers(3))
    cells = _cells(numbers, split, topic, rows, columns, rng)
    rows = len(cells) - 1
    header = list(HEADERS)[int(rng.integers(4))]
    marked = int(rng.integers(rows)) if rng.random() < 0.6 else None
    image = _draw(cells, HEADERS[header], marked, rng)
    pairs = [
        Pair("What type of figure is this?", "Table", "figure type"),
        Pair("How many rows does the table have below its header?", str(rows), "number of rows"),
        Pair("How many columns does the table have?", str(columns), "number of columns"),
        Pair("What colour is the table's header?", header.capitalize(), "header colour"),
        Pair("Is a row marked in yellow?", yes_no(marked is not None), "marked row"),
    ]
    topics = {"elements": "Chemical elements", "cars": "Cars", "gapminder": "Countries"}
    pairs.append(Pair("What is the table about?", topics[topic], "table topic"))
    if marked is not None:
        pairs.append(Pair("Which row below the header is marked?", ORDINALS[marked], "which row marked"))
    mark = f"the {ORDINALS[marked].lower()} row marked in yellow" if marked is not None else "no row marked"
    caption = (
        f"A table about {topics[topic].lower()} with {rows} rows, {columns} columns, a {header} header and {mark}."
    )
    licence = {"elements": "public domain", "cars": "CC0-1.0", "gapminder": "CC-BY-2.0 (Gapminder)"}[topic]
    return Item(
        f"table-{split}-{index:04d}",
        image,
        DOCUMENTS,
        f"{topic}-table",
        "table",
        licence,
        split,
        caption,
        tuple(pairs),
        lossless=True,
    )


def _draw(
    cells: list[list[str]], header: tuple[int, int, int], marked: int | None, rng: np.random.Generator
) -> Image.Image:
    """The table on a white square; the first column is wider, and the font is small enough for the longest cell."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    draw = ImageDraw.Draw(image)
    columns = len(cells[0])
    height = int(rng.integers(17, 22))
    widths = [52, *([int((SIZE - 10 - 52) / (columns - 1))] * (columns - 1))]
    top = int((SIZE - height * len(cells)) * rng.random())
    for row, texts in enumerate(cells):
        left, upper = 5, top + row * height
        for column, text in enumerate(texts):
            fill = header if row == 0 else HIGHLIGHT if marked == row - 1 else "white"
            draw.rectangle((left, upper, left + widths[column], upper + height), fill=fill, outline=(90, 90, 90))
            font = ImageFont.truetype(FONTS / ("DejaVuSans-Bold.ttf" if row == 0 else "DejaVuSans.ttf"), 10)
            while draw.textlength(text, font=font) > widths[column] - 4:
                font = font.font_variant(size=font.size - 1)
            draw.text((left + 3, upper + height / 2), text, fill="black", font=font, anchor="lm")
            left += widths[column]
    return image
