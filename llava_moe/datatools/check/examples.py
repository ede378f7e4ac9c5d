"""One example of each kind, ready to show: its images as far as they open, its words, and where it stands."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

from llava_moe.data.conversation import SYSTEM, BadRecord, Conversation
from llava_moe.data.images.transform import open_image
from llava_moe.datatools.check.fault_kinds import KINDS, Kind
from llava_moe.datatools.check.findings import Findings
from llava_moe.datatools.check.run_check import Checked
from llava_moe.datatools.check.scan import Found, read_ref
from llava_moe.datatools.check.table import KindRow, first_found, kind_rows, place_of
from llava_moe.text.escape_control import visible

SIDE = 224
MOST_IMAGES = 3
MOST_TURNS = 8
MOST_CHARACTERS = 700


@dataclass(frozen=True)
class ShownImage:
    """An image as a ``data:`` address, or why there is none."""

    name: str
    address: str | None


@dataclass(frozen=True)
class Example:
    """A kind with its first record."""

    kind: Kind
    count: int
    label: str
    place: str
    id: str
    detail: str
    images: tuple[ShownImage, ...]
    turns: tuple[tuple[str, str], ...]


def examples_of(checked: Checked) -> list[Example]:
    """An example of each kind of record or image that was found, faults first."""
    return [example for row in kind_rows(checked) if (example := _example(checked, row)) is not None]


def _example(checked: Checked, row: KindRow) -> Example | None:
    first = first_found(checked, row.kind.name)
    if first is None:
        return None
    findings, found = first
    images, turns = _content(findings, found)
    return Example(
        KINDS[row.kind.name],
        row.total,
        findings.view.label,
        visible(place_of(findings, found)),
        visible(found.id),
        visible(found.detail),
        images,
        turns,
    )


def _content(findings: Findings, found: Found) -> tuple[tuple[ShownImage, ...], tuple[tuple[str, str], ...]]:
    view = findings.view
    entry = view.records.read(found.row, found.row + 1)[0]
    readable = entry if isinstance(entry.content, BadRecord) else entry.content
    said = [(turn.role, turn.text) for turn in readable.turns[:MOST_TURNS]]
    if isinstance(readable, Conversation) and readable.system is not None:
        said.insert(0, (SYSTEM, readable.system))
    turns = tuple((visible(role[:40]), _clipped(text)) for role, text in said)
    if not view.check_images:
        return (), turns
    # The image that it is about comes first.
    places = sorted(range(len(readable.images)), key=lambda place: readable.images[place] != found.image)
    images = [_image(findings, found, place) for place in places[:MOST_IMAGES]]
    return tuple(images), turns


def _image(findings: Findings, found: Found, place: int) -> ShownImage:
    records = findings.view.records
    entry = records.read(found.row, found.row + 1)[0]
    ref = (entry if isinstance(entry.content, BadRecord) else entry.content).images[place]
    name = visible(ref[:200]) if isinstance(ref, str) else "in the record"
    try:
        reading = replace(findings.view.encoder.reading, value_range=findings.view.source.value_range)
        image = open_image(read_ref(records, found.row, place, ref), records.image_root, reading=reading)
    except BadRecord as fault:
        return ShownImage(f"{name}: {fault.reason}", None)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=85)
    return ShownImage(name, f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}")


def _clipped(text: str) -> str:
    return visible(text[:MOST_CHARACTERS], keep="\n") + ("…" if len(text) > MOST_CHARACTERS else "")
