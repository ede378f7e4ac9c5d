"""Image classification by free text: the class name as a whole word in the answer, or alone.

Source: OpenGVLab/Multi-Modality-Arena ``LVLM_evaluation`` (``remove_special_chars``, ``has_word``), which LVLM-eHub
scores CIFAR, MNIST and ImageNet with. Class names with underscores want them replaced by blanks before scoring.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llava_moe.eval.metrics.plain import expect_references
from llava_moe.eval.metrics.tiny_lvlm import has_word

_SPECIAL = re.compile(r"[^a-zA-Z0-9\s]")


def _letters_and_digits(text: str) -> str:
    return _SPECIAL.sub("", text).lower()


def classification_has_word(prediction: str, references: Sequence[str]) -> float:
    """1.0 if any reference is a whole word of the prediction, both stripped to ASCII letters, digits and blanks."""
    expect_references(references)
    predicted = _letters_and_digits(prediction)
    return float(any(has_word(predicted, _letters_and_digits(reference)) for reference in references))


def classification_exact(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction, stripped in the same way and of outer blanks, is one of the references."""
    expect_references(references)
    predicted = _letters_and_digits(prediction).strip()
    return float(any(predicted == _letters_and_digits(reference).strip() for reference in references))
