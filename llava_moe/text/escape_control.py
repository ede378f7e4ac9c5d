"""Text from files and words made harmless to show: what a terminal would obey, or a reader not see, is written out.

Everything that a command prints goes through here: tables and lines by way of ``VisibleConsole``, errors in ``cli``.
"""

from __future__ import annotations

import unicodedata

_DIRECTION = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the reading direction of what follows, beyond the text they stand in."""


def visible(text: str, keep: str = "") -> str:
    """The text with control characters, direction marks and lone surrogates as escapes, such as ``\\x1b``.

    Args:
        keep: characters that stay, such as a line break.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one in keep or _is_plain(one) else _escape(one) for one in text)


def _is_plain(one: str) -> bool:
    return unicodedata.category(one) not in ("Cc", "Cs", "Zl", "Zp") and one not in _DIRECTION


def _escape(one: str) -> str:
    return f"\\x{ord(one):02x}" if ord(one) < 256 else f"\\u{ord(one):04x}"
