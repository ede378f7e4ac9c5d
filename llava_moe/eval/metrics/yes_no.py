"""Yes/no answers read as whole words, and the scores of a set of yes/no questions (VSR, POPE and MME variants)."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.eval.metrics.vqa_text import strip_punctuation


def yes_no_extract(prediction: str) -> str:
    """``Yes`` or ``No`` if exactly one of the two is a word of the answer, else ``Unknown``.

    The text is lower-cased and its punctuation processed as VQA does; "no-one" holds the word no, "cannot" does not.

    Source: open-compass/VLMEvalKit e8e78f0 ``vlmeval/dataset/utils/yorn.py`` ``YOrN_Extraction``. Where VLMEvalKit has
    a judge model it asks it about the unknown; here they stay unknown.
    """
    words = strip_punctuation(prediction.lower(), keep_stop_after_digit=True).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


def yes_no_metrics(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """``accuracy, precision, recall, f1, yes_ratio, unknown_ratio`` of a yes/no set by :func:`yes_no_extract`; 0..1.

    An unknown answer is wrong for the accuracy and a "no" for precision, recall and F1 (positive = yes).

    Source: open-compass/VLMEvalKit e8e78f0 ``vlmeval/dataset/utils/yorn.py`` ``VSR_rating`` and ``POPE_rating`` (which
    print per cent); the two ratios are ours.

    Args:
        predictions: the model's raw texts.
        labels: "yes" or "no" in any case.

    Raises:
        ValueError: no predictions, another number of labels, or a label other than yes and no.
    """
    expect_pairs(predictions, labels)
    truths = [label.strip().lower() for label in labels]
    if unknown := set(truths) - {"yes", "no"}:
        raise ValueError(f"labels must be yes or no, got {sorted(unknown)!r}")
    answers = [yes_no_extract(prediction).lower() for prediction in predictions]
    num_right = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
    return {
        "accuracy": num_right / len(answers),
        **precision_recall_f1([answer == "yes" for answer in answers], [truth == "yes" for truth in truths]),
        "yes_ratio": answers.count("yes") / len(answers),
        "unknown_ratio": answers.count("unknown") / len(answers),
    }


def precision_recall_f1(said_yes: Sequence[bool], is_yes: Sequence[bool]) -> dict[str, float]:
    """``precision, recall, f1`` of the positive class; a ratio without a denominator is 0.0."""
    num_hits = sum(said and truth for said, truth in zip(said_yes, is_yes, strict=True))
    precision = num_hits / max(1, sum(said_yes))
    recall = num_hits / max(1, sum(is_yes))
    f1 = 2 * precision * recall / (precision + recall) if num_hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def expect_pairs(predictions: Sequence[str], labels: Sequence[str]) -> None:
    """Raise ``ValueError`` unless there is a prediction and as many labels."""
    if not predictions or len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
