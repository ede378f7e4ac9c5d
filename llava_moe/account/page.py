"""What the pages share: a template rendered into one file that points nowhere outside and holds no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_moe.html_page import page_template

# Readable on white and on near-black, and told apart by the colour-blind in this order.
COLOURS = ("#3987e5", "#d95926", "#199e70", "#c98500", "#9085e9", "#d55181")


def colours_of(domains: Sequence[str]) -> dict[str, str]:
    """A colour for each domain, in order of first appearance."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(domains))}


def render(template: str, **values: Any) -> str:
    """The page of a template beside this file; every value is escaped."""
    page = page_template(Path(__file__).with_name(template), percent=lambda share: f"{100 * share:.2f} %")
    return page.render(**values)
