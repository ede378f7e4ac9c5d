"""Yes/no questions: three ways to read an answer, POPE's and MME's scores.

Sources: open-compass/VLMEvalKit ``vlmeval/dataset/utils/yorn.py``; RUCAIBox/POPE ``evaluate.py``; MME's official
``calculation.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from llava_moe.eval.metrics.vqa_text import strip_punctuation

MME_PERCEPTION = frozenset(
    {"existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"}
)
MME_COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})


def yes_no_extract(prediction: str) -> str:
    """``Yes`` or ``No`` if exactly one is a word of it, else ``Unknown`` (VLMEvalKit ``YOrN_Extraction``)."""
    words = strip_punctuation(prediction.lower(), keep_stop_after_digit=True).split()
    if ("yes" in words) == ("no" in words):
        return "Unknown"
    return "Yes" if "yes" in words else "No"


def pope_answer_parse(prediction: str) -> str:
    """``no`` if the first sentence holds the word No, no or not, else ``yes`` (RUCAIBox/POPE).

    The sentence ends at the first full stop, commas are deleted, words are split at blanks only; so "NO", "No!",
    "nope", "no" before a line break and the empty text all read as yes.
    """
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def pope_metrics(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """POPE's accuracy, precision, recall, F1 (positive = yes) and the share of predicted yes, each 0..1.

    Args:
        predictions: the model's raw texts, read by :func:`pope_answer_parse`.
        labels: "yes" or "no"; whatever is not "no" counts as yes, as in the original.

    Raises:
        ValueError: no predictions, or another number of labels.
    """
    if not predictions or len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions for {len(labels)} labels")
    said_yes = [pope_answer_parse(prediction) == "yes" for prediction in predictions]
    is_yes = [label != "no" for label in labels]
    true_positives = sum(said and truth for said, truth in zip(said_yes, is_yes, strict=True))
    num_right = sum(said == truth for said, truth in zip(said_yes, is_yes, strict=True))
    precision = _ratio(true_positives, sum(said_yes))
    recall = _ratio(true_positives, sum(is_yes))
    return {
        "accuracy": num_right / len(predictions),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": sum(said_yes) / len(predictions),
    }


def mme_answer_parse(prediction: str) -> str:
    """``yes``, ``no`` or ``other``: the lower-cased answer, else what its first four characters hold (MME's tool).

    Nothing is stripped: "Eyes" is yes, "Snow" is no and "  yes" is other.
    """
    lowered = prediction.lower()
    start = lowered if lowered in ("yes", "no") else lowered[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def mme_score(predictions: Sequence[str], items: Sequence[tuple[str, str, str]]) -> dict[str, float | None]:
    """MME's perception (0..2000) and cognition (0..800) sums.

    A subtask scores ``100 * acc + 100 * acc_plus``: the share of right questions, and of images both of whose
    questions are right.

    Args:
        predictions: the model's raw texts, read by :func:`mme_answer_parse`.
        items: (category, image id, "Yes" or "No" in any case) of each prediction.

    Returns:
        ``mme_perception_score`` and ``mme_cognition_score``; None where no item is of that kind.

    Raises:
        ValueError: a category MME does not have, or another number of items than predictions.
    """
    if len(predictions) != len(items):
        raise ValueError(f"{len(predictions)} predictions for {len(items)} items")
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for prediction, (category, image_id, gold) in zip(predictions, items, strict=True):
        if category not in MME_PERCEPTION | MME_COGNITION:
            raise ValueError(f"{category!r} is not a category of MME")
        right[category][image_id].append(mme_answer_parse(prediction) == gold.lower().strip())
    scores = {category: _mme_subtask(images) for category, images in right.items()}
    return {
        "mme_perception_score": _sum_of(scores, MME_PERCEPTION),
        "mme_cognition_score": _sum_of(scores, MME_COGNITION),
    }


def _mme_subtask(images: dict[str, list[bool]]) -> float:
    answers = [answer for of_image in images.values() for answer in of_image]
    both_right = sum(all(of_image) for of_image in images.values())
    return 100 * sum(answers) / len(answers) + 100 * both_right / len(images)


def _sum_of(scores: dict[str, float], categories: frozenset[str]) -> float | None:
    present = [score for category, score in scores.items() if category in categories]
    return sum(present) if present else None


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
