"""One colour for each domain, on every page of every command."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

PALETTE = ("#3987e5", "#d95926", "#199e70", "#c98500", "#9085e9", "#d55181")
"""Readable on white and on near-black, and told apart by the colour-blind in this order."""
_KNOWN = {"general": 0, "documents": 1, "medical": 2}


def colors_of(domains: Iterable[str], more: Iterable[str] = ()) -> dict[str, str]:
    """A colour for each domain, decided by its name and not by where a page meets it.

    ``general``, ``documents`` and ``medical`` have colours of their own. Any other name starts at the place that its
    hash gives among the rest and takes the next free one; of names that want the same place, the first in the alphabet
    has it. With more names than colours, colours repeat.

    Args:
        domains: those of the mixture, which choose first.
        more: others of the page, such as those of a benchmark.
    """
    colors: dict[str, str] = {}
    groups = [set(domains), set(more)]
    for group in [{*_KNOWN} & set().union(*groups), *groups]:
        for name in sorted(group - set(colors)):
            wanted = _wanted(name)
            colors[name] = next((color for color in wanted if color not in colors.values()), wanted[0])
    return colors


def _wanted(name: str) -> tuple[str, ...]:
    """The colours in the order in which a domain would have them."""
    if name in _KNOWN:
        return (PALETTE[_KNOWN[name]],)
    free = PALETTE[len(_KNOWN) :]
    first = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big") % len(free)
    return free[first:] + free[:first] + PALETTE[: len(_KNOWN)]
