"""Exact match without a benchmark's quirks: what the embedded demo's headline counts."""

from __future__ import annotations

from collections.abc import Sequence


def plain_text(text: str) -> str:
    """``text`` as :func:`exact_match` compares it: outer blanks away, case folded, one trailing full stop ignored."""
    folded = text.strip().casefold()
    return folded.removesuffix(".").rstrip()


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals any reference after :func:`plain_text`, else 0.0.

    The project's own definition; it forgives nothing but case, outer blanks and a trailing full stop.

    Raises:
        ValueError: there is no reference.
    """
    expect_references(references)
    return float(plain_text(prediction) in {plain_text(reference) for reference in references})


def expect_references(references: Sequence[str]) -> None:
    """Raise ``ValueError`` unless ``references`` is a non-empty sequence of texts, and not itself a text."""
    if isinstance(references, str) or not references:
        raise ValueError(f"references must be a non-empty list of texts, got {references!r}")
