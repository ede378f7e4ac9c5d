"""What the pages share: a template rendered into one file that points nowhere outside and holds no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llava_moe.pages.html_page import page_template


def render(template: str, **values: Any) -> str:
    """The page of a template beside this file; every value is escaped."""
    return page_template(Path(__file__).with_name(template), percent=_percent).render(**values)


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
