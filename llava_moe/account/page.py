"""What the pages share: a template rendered into one file that points nowhere outside and holds no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Readable on white and on near-black, and told apart by the colour-blind in this order.
COLOURS = ("#3987e5", "#d95926", "#199e70", "#c98500", "#9085e9", "#d55181")


def colours_of(domains: Sequence[str]) -> dict[str, str]:
    """A colour for each domain, in order of first appearance."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(dict.fromkeys(domains))}


def render(template: str, **values: Any) -> str:
    """The page of a template beside this file; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda share: f"{100 * share:.2f} %"
    return environment.get_template(template).render(**values)
