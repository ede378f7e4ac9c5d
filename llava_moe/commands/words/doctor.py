"""The words of ``llava-moe doctor``: none."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.errors import UserError


def main(words: Sequence[str]) -> int:
    """Refuse words, then examine the machine."""
    if words:
        raise UserError(f"doctor takes no arguments (got {words[0]})")
    from llava_moe.commands.doctor import examine

    return examine()
