"""What a mistyped name may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6, shown: Callable[[str], str] = str) -> str:
    """``" (did you mean X?)"`` with the known name that is most like ``word``, or nothing.

    Args:
        word: as it was typed.
        known: names.
        cutoff: how alike they must be, of at most 1 (``difflib``'s ratio).
        shown: what is said of a name, such as ``data=X``.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {shown(near[0])}?)" if near else ""
