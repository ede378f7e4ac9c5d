"""The words of ``llava-moe help``: a key, a section or a command."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.config.as_typed import as_typed


def main(words: Sequence[str]) -> int:
    """Tell what the words name."""
    from llava_moe.commands.help import tell

    return tell([as_typed(word) for word in words])
