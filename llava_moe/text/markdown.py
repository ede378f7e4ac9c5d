"""Text from anywhere as Markdown shows it: nothing in it becomes mark-up, a link, HTML or another cell."""

from __future__ import annotations

import re

from llava_moe.text.escape_control import visible

# What begins or ends something in Markdown as GitHub and the hub read it; a star between blanks, a bracket without an
# address behind it and a _ inside a word do not, and tables stay readable without a backslash there.
_MARKS = re.compile(r"[\\`<|$~]|(?<=\S)\*|\*(?=\S)|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[:])|&(?=#?\w+;)")
_BACKTICKS = re.compile(r"`+")


def markdown_text(text: str) -> str:
    """The text on one line, with a backslash before what Markdown would obey."""
    return _MARKS.sub(r"\\\g<0>", visible(text))


def markdown_code(text: str) -> str:
    """The text on one line as a span of code, inside a table too."""
    shown = visible(text).replace("|", r"\|")
    fence = "`" * (1 + max((len(found[0]) for found in _BACKTICKS.finditer(shown)), default=0))
    gap = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{gap}{shown}{gap}{fence}"
