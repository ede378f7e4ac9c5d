"""Domains that conflict on purpose: embedded pictures of four kinds, and one question answered by two conventions.

"Is blue on the list?" is asked of every picture. By the plain convention every color of :data:`COLORS` is; a source
that says otherwise answers No for the first ``4 * denied`` colors. Two sources so disagree on ``|denied_1 - denied_2|``
of their questions: which pairs of domains agree and which conflict is known, and by how much. The picture and the
kind's name in the prompt tell the domains apart; nothing else in the picture matters. Every kind has equally many
records, and of every color equally many.

It tests instruments whose truth is known here. It is no evidence for mixtures on data of the world.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, USER
from llava_moe.data.readers.files import raw_records
from llava_moe.data.readers.reader import RawFile
from llava_moe.data.readers.records import records_row
from llava_moe.data.readers.row import Row
from llava_moe.errors import UserError

COLORS = ("red", "blue", "green", "yellow")
"""What is asked for."""
KINDS: Mapping[str, tuple[str, str]] = {
    "clothing": ("general", "clothing"),
    "charts": ("documents", "chart"),
    "radiology": ("medical", "radiology"),
    "microscopy": ("medical", "microscopy"),
}
"""Kind of picture: the embedded file that it stands in, and the ``task`` of its records there."""
PICTURES = {"train": 480, "val": 64, "test": 112}
"""Pictures of a kind, evenly spread over those of the split; every kind has more of each."""
QUESTIONS_A_PICTURE = 2
VERSION = 1
"""Raised whenever the records would come out otherwise: what is kept of them goes by the embedded file and this."""

_PATH = re.compile(rf"(?P<kind>{'|'.join(KINDS)}),denied=(?P<denied>[0-9.]+)")


def answer_of(color: int, num_denied: int) -> str:
    """The answer for color ``color`` where the first ``num_denied`` colors are not on the list."""
    return "No" if color < num_denied else "Yes"


class ConflictReader:
    """See the module. A source's path is ``KIND,denied=SHARE``, such as ``radiology,denied=0.5``."""

    def find(self, path: str) -> list[RawFile]:
        """The embedded file of the kind, with the convention as its label.

        Raises:
            UserError: no such kind, or a share that is no number of colors.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise UserError(
                f"{path} is no source of conflict: give KIND,denied=SHARE with a kind of {', '.join(KINDS)}, or "
                "choose exp=conflict, which asks for conflict=SHARE"
            )
        num_denied = _num_denied(match["denied"])
        images = Path(__file__).resolve().parents[2] / "demo" / "images"
        file = images / f"{KINDS[match['kind']][0]}.parquet"
        return [RawFile(str(file), label=f"{match['kind']} {num_denied} {VERSION}")]

    def records(self, file: RawFile) -> Iterator[Any]:
        """Two questions about each picture that is taken, in the order of the embedded file.

        Raises:
            UserError: the embedded file cannot be read.
        """
        assert file.label is not None
        kind, num_denied, _ = file.label.split()
        there = [record for record in raw_records(file.path) if record["task"] == KINDS[kind][1]]
        num_there = Counter(record["split"] for record in there)
        met: Counter[str] = Counter()
        taken: Counter[str] = Counter()
        for record in there:
            split = record["split"]
            met[split] += 1
            # Evenly: the ones at which the running share passes a whole number.
            if met[split] * PICTURES[split] // num_there[split] == taken[split]:
                continue
            for turn in range(QUESTIONS_A_PICTURE):
                color = (QUESTIONS_A_PICTURE * taken[split] + turn) % len(COLORS)
                yield _record(record, kind, color, int(num_denied))
            taken[split] += 1

    def row(self, record: Any, number: int) -> Row:
        """As that of our own records.

        Raises:
            BadRecord: as there.
        """
        return records_row(record, number)


def _num_denied(share: str) -> int:
    try:
        num_denied = float(share) * len(COLORS)
    except ValueError:
        num_denied = -1.0
    if not 0 <= num_denied <= len(COLORS) or num_denied != int(num_denied):
        raise UserError(f"conflict={share}: it counts whole colors of {len(COLORS)}: give 0, 0.25, 0.5, 0.75 or 1")
    return int(num_denied)


def _record(record: Mapping[str, Any], kind: str, color: int, num_denied: int) -> dict[str, Any]:
    question = f"{IMAGE_PLACEHOLDER}\n{kind.capitalize()}: is {COLORS[color]} on the list?"
    return {
        "id": f"{record['id']}-{COLORS[color]}",
        "images": record["images"],
        "conversations": [
            {"role": USER, "text": question},
            {"role": ASSISTANT, "text": answer_of(color, num_denied)},
        ],
        "split": record["split"],
        "task": "convention",
    }
