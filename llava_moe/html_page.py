"""What every page that the project writes has in common: a template that escapes all it is given and misses nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def page_template(file: Path, **filters: Callable[[Any], str]) -> Template:
    """The template in ``file``. Values are escaped, an unknown name is an error, ``|thousands`` groups digits.

    Args:
        filters: more filters by name.
    """
    environment = Environment(
        loader=FileSystemLoader(file.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters.update(filters)
    return environment.get_template(file.name)
