"""The options that a question lists, and whether an answer is one of them: then the question is a closed one.

A list is what a record holds under ``options`` or ``choices``, or in the question's text: lettered lines or brackets
(``A. red``, ``(B) blue``), what follows ``Options:`` or ``Choices:``, in its line or in lines with a dash, and
``yes or no``, ``true or false``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llava_moe.eval.metrics.plain import plain_text

OPTION_KEYS = ("options", "choices")
_LINE = re.compile(r"^[ \t]*[(\[]?([A-Z])[)\].:][ \t]+(\S.*?)[ \t]*$", re.MULTILINE)
_BRACKETED = re.compile(r"\(([A-Z])\)[ \t]*([^()\n]*?)[ \t]*(?=[,;]?[ \t]*\([A-Z]\)|[.?]?[ \t]*$)", re.MULTILINE)
_NAMED = re.compile(r"\b(?:options|choices)[ \t]*(?:are)?[ \t]*:[ \t]*(.*)$", re.IGNORECASE | re.MULTILINE)
_DASHED = re.compile(r"[ \t]*[-*•][ \t]+(\S.*?)[ \t]*")
_BETWEEN = re.compile(r"\s*[,;|/]\s*(?:or\s+)?|\s+or\s+")
_PAIRS = re.compile(r"\b(yes or no|yes/no|true or false|true/false)\b", re.IGNORECASE)


def is_listed(references: Sequence[str], question: str, record: Mapping[str, Any]) -> bool:
    """Whether one of the answers is an option of the question: its text, its letter, or both.

    Args:
        references: the answers that count.
        question: its text.
        record: as its file has it.
    """
    options = {_bare(option) for option in listed_options(question, record)} - {""}
    return any(_bare(reference) in options for reference in references)


def listed_options(question: str, record: Mapping[str, Any]) -> list[str]:
    """Every spelling of every option: ``A``, ``red``, ``A. red``."""
    options: list[str] = []
    for key in OPTION_KEYS:
        options += _of_record(record.get(key))
    options += _lettered(_LINE.findall(question)) or _lettered(_BRACKETED.findall(question))
    for found in _NAMED.finditer(question):
        options += _BETWEEN.split(found[1].strip().rstrip(".?")) if found[1].strip() else []
        options += _dashed(question[found.end() :])
    for found in _PAIRS.finditer(question):
        options += re.split(r" or |/", found[0], flags=re.IGNORECASE)
    return options


def _of_record(value: Any) -> list[str]:
    """What stands under a record's key: a list of texts, lettered in their order, or a mapping of letters to texts."""
    if isinstance(value, Mapping):
        return _spelled((str(letter), str(text)) for letter, text in value.items() if text is not None)
    if isinstance(value, list | tuple):
        # From Z on there is no letter.
        return _spelled((chr(ord("A") + place) if place < 26 else "", str(text)) for place, text in enumerate(value))
    return []


def _lettered(found: Sequence[tuple[str, str]]) -> list[str]:
    """Lettered options, where the letters are A, B, ... in order; others are initials or the like."""
    letters = [letter for letter, _ in found]
    is_list = len(letters) > 1 and letters == [chr(ord("A") + place) for place in range(len(letters))]
    return _spelled(found) if is_list else []


def _spelled(lettered: Iterable[tuple[str, str]]) -> list[str]:
    return [spelling for letter, text in lettered for spelling in (letter, text, f"{letter} {text}")]


def _dashed(text: str) -> list[str]:
    """The lines with a dash that a text opens with."""
    options = []
    for line in text.lstrip("\n").splitlines():
        found = _DASHED.fullmatch(line)
        if found is None:
            break
        options.append(found[1])
    return options


def _bare(text: str) -> str:
    """An option or an answer as they are compared: ``(A) Red.``, ``A. red`` and ``a red`` are the same."""
    return " ".join(re.sub(r"^\(?([a-z])[).:](?=\s|$)", r"\1 ", plain_text(text)).split())
