"""Image classification by free text: the class name as a whole word in the answer, or alone.

Source: OpenGVLab/Multi-Modality-Arena bd2999a ``LVLM_evaluation/utils/classification.py`` and ``tools.py``
(``remove_special_chars``, ``has_word``), which LVLM-eHub scores CIFAR, MNIST and ImageNet with. Everything but ASCII
letters, digits and blanks is deleted, not replaced: class names with underscores ("aquarium_fish") want blanks in their
place before scoring, or no answer can match them. MixLoRA's paper has a language model judge instead; its repository
holds no scorer.
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
    """1.0 if any reference is a whole word of the prediction, both stripped to ASCII letters, digits and blanks.

    A reference that has none of these is found in any text that holds a word.
    """
    expect_references(references)
    predicted = _letters_and_digits(prediction)
    return float(any(has_word(predicted, _letters_and_digits(reference)) for reference in references))


def classification_exact(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals any reference, both stripped to ASCII letters, digits and blanks.

    Blanks count, outer ones too, as in the original: "dog ." is not "dog".
    """
    expect_references(references)
    predicted = _letters_and_digits(prediction)
    return float(any(predicted == _letters_and_digits(reference) for reference in references))
