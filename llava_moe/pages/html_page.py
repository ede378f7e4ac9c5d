"""What every page that the project writes has in common: a template that escapes all it is given and misses nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from llava_moe.text.escape_control import visible


def page_template(file: Path, *more: Path, **filters: Callable[[Any], str]) -> Template:
    """The template in ``file``, which begins with ``head.html.j2``: a policy under which a browser runs no script.

    Values are escaped, control characters and marks of direction in them written out; an unknown name is an error;
    ``|thousands`` groups digits.

    Args:
        more: folders of templates that it extends or includes, beside its own.
        filters: more filters by name.
    """
    return _environment((file.parent, *more), tuple(filters.items())).get_template(file.name)


@lru_cache(maxsize=16)  # It keeps its compiled templates, which take longer than a page, and sees where one changed.
def _environment(folders: tuple[Path, ...], filters: tuple[tuple[str, Callable[[Any], str]], ...]) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        finalize=_made_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    environment.filters.update(filters)
    return environment


def _made_visible(value: Any) -> Any:
    """Markup is our own; all other text may come from anywhere."""
    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value
