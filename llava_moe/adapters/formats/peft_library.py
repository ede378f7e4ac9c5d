"""PEFT itself, an optional dependency."""

from __future__ import annotations

from typing import Any

from llava_moe.errors import UserError


def import_peft(why: str) -> Any:
    """The library.

    Args:
        why: what needs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise UserError(f"{why}: pip install 'llava-moe[peft]'") from error
    return peft
