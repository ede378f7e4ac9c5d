"""LLaVA-Med's scores for PathVQA: yes/no accuracy on closed questions, token recall and F1 on open ones.

Source: microsoft/LLaVA-Med b9a98a7 ``llava/eval/run_eval.py`` and ``llava/eval/eval_metrics/evaluate_metrics.py``;
the numbers that papers quote. Its other scripts, and this one before that commit, leave wrong yes/no answers out of
the mean, which inflates it; they are not followed. Others score PathVQA by exact match or token F1
(:func:`squad_exact_match`, :func:`squad_f1`), BLEU-1, or a language model as judge (VLMEvalKit).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llava_moe.eval.metrics.plain import expect_references
from llava_moe.eval.metrics.vqa_text import settle_digits_and_articles, strip_punctuation
from llava_moe.eval.metrics.yes_no import yes_no_extract


def normalize_word(text: str) -> str:
    """LLaVA-Med's ``normalize_word`` of the lower-cased text: the VQA rules, then commas dropped."""
    return settle_digits_and_articles(strip_punctuation(text.lower())).replace(",", "")


def pathvqa_closed_accuracy(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction holds "yes" or "no" anywhere and holds the reference as a substring.

    Substrings, not words: "normal", "nodules" and "cannot" count as "no", and an answer that holds both words is
    right for either reference. "none" normalises to "0" and is a miss. Whole words are read by
    :func:`pathvqa_closed_accuracy_strict`.

    Args:
        prediction: the model's text.
        references: exactly one text; the original knows one.

    Raises:
        ValueError: there is not exactly one reference.
    """
    predicted, gold = normalize_word(prediction), normalize_word(_only(references))
    return float(("yes" in predicted or "no" in predicted) and gold in predicted)


def pathvqa_closed_accuracy_strict(prediction: str, references: Sequence[str]) -> float:
    """1.0 if exactly one of the words yes and no stands in the prediction and it is the reference.

    The project's own variant, by :func:`yes_no_extract`; an answer with both words, or neither, is wrong.

    Raises:
        ValueError: there is not exactly one reference, or it is neither yes nor no.
    """
    gold = yes_no_extract(_only(references))
    if gold == "Unknown":
        raise ValueError(f"a closed question's reference is yes or no, got {references[0]!r}")
    return float(yes_no_extract(prediction) == gold)


def pathvqa_open_recall(prediction: str, references: Sequence[str]) -> float:
    """Token recall ``tp / (tp + fn)`` with LLaVA-Med's counts.

    tp sums the *prediction's* count of every shared token, fn the reference's count of tokens the prediction lacks;
    so repeating a right word raises recall, and a word the reference repeats counts once found. 0.0 if either side
    normalises to nothing.
    """
    return _open_scores(prediction, references)[1]


def pathvqa_open_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision ``tp / (tp + fp)`` and :func:`pathvqa_open_recall`, from the same counts."""
    precision, recall = _open_scores(prediction, references)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _open_scores(prediction: str, references: Sequence[str]) -> tuple[float, float]:
    # The original normalises twice (once in the script, once in the function); a second pass can change the text, so
    # it stays.
    predicted = Counter(_normalize_again(normalize_word(prediction)).lower().split())
    gold = Counter(_normalize_again(normalize_word(_only(references))).lower().split())
    true_positives = sum(count for word, count in predicted.items() if word in gold)
    if true_positives == 0:
        return 0.0, 0.0
    false_negatives = sum(count for word, count in gold.items() if word not in predicted)
    return true_positives / predicted.total(), true_positives / (true_positives + false_negatives)


def _normalize_again(text: str) -> str:
    return settle_digits_and_articles(strip_punctuation(text)).replace(",", "")


def _only(references: Sequence[str]) -> str:
    expect_references(references)
    if len(references) != 1:
        raise ValueError(f"PathVQA has one reference an answer, got {len(references)}: {references!r}")
    return references[0]
