"""Files of questions as people write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLORS = {"red": (220, 20, 20), "blue": (20, 30, 220)}


def paint(folder: Path, number: int = 6) -> list[str]:
    """Pictures ``0.png`` and on, red and blue in turn; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(number):
        shade = tuple(min(255, part + place) for part in [*COLORS.values()][place % 2])
        Image.new("RGB", (12, 10), shade).save(folder / f"{place}.png")
    return [f"{place}.png" for place in range(number)]


def asking(question: str, answer: str, images: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A record of messages with one question."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": [*images], **more}


def write_lines(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write_questions(path: Path) -> Path:
    """Eight questions in two domains, pictures beside the file: two colours are asked for by six, and two stand alone.

    Of the six, each with a picture of its own, the ``photos`` are red, blue, red and the ``charts`` blue, red, blue.
    """
    names = paint(path.parent)
    records = [
        asking("<image>\nWhat colour is it?", [*COLORS][place % 2], [name], id=f"q{place}",
               domain="photos" if place < 3 else "charts")
        for place, name in enumerate(names)
    ]  # fmt: skip
    records.append(asking("<image>\nDescribe it.", "A red square", [names[0]], id="open", domain="photos"))
    records.append(asking("<image>\nIs it small?\nA. yes\nB. no", "A", [names[1]], id="listed", domain="charts"))
    return write_lines(path, records)
