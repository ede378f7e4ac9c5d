"""Commands that are printed for people to run: quoted so that a shell hands every word back as it is."""

from __future__ import annotations

import shlex

from llava_moe.text.escape_control import visible


def shell(*words: str) -> str:
    """One line of words, each quoted where a shell would read it as something else."""
    return " ".join(map(_quoted, words))


def named(key: str, place: object) -> str:
    """``key=place`` for a shell; a place that the command line would take for nothing is named from here."""
    return _quoted(f"{key}={as_place(place)}")


def as_place(place: object) -> str:
    """A path as the value of a key."""
    text = str(place)
    return f"./{text}" if text in ("", "null") else text


def _quoted(word: str) -> str:
    if visible(word) == word:
        # Double quotes read better around single ones, where nothing inside means something to a shell.
        return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
    # A console writes such characters out, so they are written out for the shell to read.
    return "$'" + "".join(map(_written, word)) + "'"


def _written(one: str) -> str:
    if one in "\\'":
        return f"\\{one}"
    return one if visible(one) == one else "".join(f"\\x{byte:02x}" for byte in one.encode())
