"""The words of ``llava-moe ls``: kinds of things."""

from __future__ import annotations

from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """List the kinds that the words name; all kinds without one."""
    from llava_moe.commands.ls import list_kinds

    return list_kinds(words)
