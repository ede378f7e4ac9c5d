"""Exact match and token F1 of SQuAD.

Source: the official SQuAD v2 ``evaluate-v2.0.py`` (``normalize_answer``, ``compute_exact``, ``compute_f1``), the best
reference counting. The script drops references that normalise to nothing where others are left; here they stay, so
that every reference given counts. SQuAD v1.1's script knows no empty side and gives an empty prediction 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from llava_moe.eval.metrics.plain import expect_references

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_squad(text: str) -> str:
    """Lower-case, ASCII punctuation out, articles out, blanks collapsed; in this order."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_DROP_PUNCTUATION)).split())


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the normalised prediction equals any normalised reference (SQuAD v2 ``compute_exact``)."""
    expect_references(references)
    return float(normalize_squad(prediction) in {normalize_squad(reference) for reference in references})


def squad_f1(prediction: str, references: Sequence[str]) -> float:
    """Best harmonic mean of token precision and recall over the references (SQuAD v2 ``compute_f1``).

    Shared tokens are counted as multisets. If either side normalises to nothing the score is 1.0 when both do, else
    0.0.
    """
    expect_references(references)
    return max(_token_f1(normalize_squad(prediction).split(), normalize_squad(gold).split()) for gold in references)


def _token_f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    num_shared = sum((Counter(predicted) & Counter(gold)).values())
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(predicted), num_shared / len(gold)
    return 2 * precision * recall / (precision + recall)
