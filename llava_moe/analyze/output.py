"""The four files of an instrument: ``<run>/analyze/<instrument>.{json,csv,svg,html}``, each written whole."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.files.atomic_write import write_atomically
from llava_moe.pages.html_page import page_template
from llava_moe.pages.inline_svg import standalone_svg

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Output:
    """What an instrument found.

    Attributes:
        facts: the JSON file; numbers that are not finite become null.
        header, rows: the CSV file, one number a row with all that names it.
        drawing: the main drawing, as :func:`~llava_moe.pages.inline_svg.inline_svg` gives it.
        page: the HTML file.
    """

    facts: Mapping[str, Any]
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    drawing: str
    page: str


def write_output(folder: Path, instrument: str, output: Output) -> Path:
    """Write the four files and return the page's path.

    Raises:
        UserError: the disk is full or the folder is not writable.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(output.header)
    writer.writerows([_cell(value) for value in row] for row in output.rows)
    facts = json.dumps(finite(output.facts), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / f"{instrument}.json", facts + "\n")
    write_atomically(folder / f"{instrument}.csv", table.getvalue())
    write_atomically(folder / f"{instrument}.svg", standalone_svg(output.drawing))
    path = folder / f"{instrument}.html"
    write_atomically(path, output.page)
    return path


def render_page(template: Path, **values: Any) -> str:
    """A page from ``<instrument>.html.j2``, which extends our ``instrument.html.j2`` and may lie anywhere.

    ``|signed`` writes a number with its sign and two decimals (or as many as told), a dash where there is none;
    ``|shade`` is the style of a cell that holds it; ``|is_known`` is whether there is one.
    """
    filters: dict[str, Any] = {"signed": _signed, "shade": _shade, "is_known": math.isfinite}
    return page_template(template, Path(__file__).parent, **filters).render(**values)


def finite(value: Any) -> Any:
    """The same with null in place of what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def _signed(number: float | None, digits: int = 2) -> str:
    if number is None or not math.isfinite(number):
        return "\N{EN DASH}"
    # Rounded to zero it has one sign, not two.
    return f"{round(number, digits) + 0.0:+.{digits}f}".replace("-", MINUS)


def _shade(number: float | None) -> str:
    """A cell's background: blue for what helps, red for what harms, stronger with size, full at 1."""
    if number is None or not math.isfinite(number):
        return ""
    strength = min(1.0, abs(number)) * 65
    color = "var(--accent)" if number > 0 else "var(--bad)"
    return f"background: color-mix(in srgb, {color} {strength:.0f}%, var(--card))"
