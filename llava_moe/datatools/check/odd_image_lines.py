"""Images in words: a line for each sort of file that is no image, and for those that come out nearly black."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.data.images.odd_files import CUT
from llava_moe.datatools.check.findings import Findings
from llava_moe.datatools.check.scan import Found
from llava_moe.text.escape_control import visible

ODD_KINDS = ("image_empty", "image_not_image", "image_other_format", "image_unreadable")
"""Kinds whose details say what the file is and what to do."""


def odd_lines(findings: Sequence[Findings]) -> list[str]:
    """What such files are, one of each by name and how many more; in the order in which they were met."""
    lines = []
    for one in findings:
        sorts: dict[str, list[Found]] = {}
        for found in one.faults.values():
            if found.kind in ODD_KINDS and (sort := _sort(found)):
                sorts.setdefault(sort, []).append(found)
        for sort, alike in sorts.items():
            first = alike[0].image or f"record {alike[0].number:,}"
            more = f"{first} is" if len(alike) == 1 else f"{first} and {len(alike) - 1:,} more, each"
            lines.append(visible(f"{one.view.label}: {more} {sort}"))
    return lines


def dark_lines(findings: Sequence[Findings]) -> list[str]:
    """A line for each source with deep images that come out nearly black: how many, one of them, what to do."""
    lines = []
    for one in findings:
        number = one.counts["image_nearly_black"]
        if number:
            many = "1 image of more than 8 bits comes" if number == 1 else f"{number:,} images of more than 8 bits come"
            told = one.shown["image_nearly_black"][0].detail
            lines.append(visible(f"{one.view.label}: {many} out nearly black, such as {told}"))
    return lines


def _sort(found: Found) -> str:
    """The detail without the file's name and what is told of this file alone; "" where it does not say what it is."""
    _, is_there, said = found.detail.partition(f"{found.image or 'in the record'} is ")
    return str(CUT) if said.startswith(str(CUT)) else said if is_there else ""
