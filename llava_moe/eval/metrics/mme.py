"""MME: perception and cognition from two yes/no questions an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

MME_PERCEPTION = frozenset(
    {"existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"}
)
MME_COGNITION = frozenset({"commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"})


def mme_answer_parse(prediction: str) -> str:
    """``yes``, ``no`` or ``other``: what the first four characters of the lower-cased answer hold, yes before no.

    Nothing is stripped: "Eyes" is yes, "Snow" is no, "  yes" and "y" are other.

    Source: MME's official ``eval_tool/calculation.py`` (``parse_pred_ans`` and the lower-casing before it).
    lmms-eval also strips, drops full stops and reads "y" and "n" (:func:`mme_answer_parse_lmms_eval`); VLMEvalKit
    looks for whole words (:func:`yes_no_extract`).
    """
    return _read_start(prediction.lower())


def mme_answer_parse_lmms_eval(prediction: str) -> str:
    """:func:`mme_answer_parse` after stripping and dropping full stops; a lone "y" or "n" reads as the word.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/mme/utils.py`` ``parse_pred_ans``.
    """
    cleaned = prediction.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(cleaned) or _read_start(cleaned)


def _read_start(lowered: str) -> str:
    start = lowered[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def mme_score(
    predictions: Sequence[str],
    items: Sequence[tuple[str, str, str]],
    *,
    parse: Callable[[str], str] = mme_answer_parse,
) -> dict[str, float | None]:
    """MME's perception (at most 2000) and cognition (at most 800) sums.

    A subtask scores ``100 * acc + 100 * acc_plus``: the share of right questions, and the share of images whose
    questions are all right (there are two an image).

    Source: MME's official ``eval_tool/calculation.py``; lmms-eval's aggregate is equal. The original pairs questions
    by their place in the file, this function by category and image.

    Args:
        predictions: the model's raw texts.
        items: (category, image id, "Yes" or "No" in any case) of each prediction.
        parse: how a text is read; lmms-eval's figures need :func:`mme_answer_parse_lmms_eval`.

    Returns:
        ``mme_perception_score`` and ``mme_cognition_score``; None where no item is of that kind. A sum over fewer
        subtasks than MME has is the sum of those there are.

    Raises:
        ValueError: a category MME does not have, a gold that is neither yes nor no, or another number of items than
            predictions.
    """
    if len(predictions) != len(items):
        raise ValueError(f"{len(predictions)} predictions for {len(items)} items")
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for prediction, (category, image_id, gold) in zip(predictions, items, strict=True):
        if category not in MME_PERCEPTION | MME_COGNITION:
            raise ValueError(f"{category!r} is not a category of MME")
        truth = gold.strip().lower()
        if truth not in ("yes", "no"):
            raise ValueError(f"MME's answers are yes and no, got {gold!r} for {category} {image_id}")
        right[category][image_id].append(parse(prediction) == truth)
    return {
        "mme_perception_score": _sum_of_subtasks(right, MME_PERCEPTION),
        "mme_cognition_score": _sum_of_subtasks(right, MME_COGNITION),
    }


def _sum_of_subtasks(right: dict[str, dict[str, list[bool]]], categories: frozenset[str]) -> float | None:
    scores = [_score_subtask(list(right[category].values())) for category in sorted(categories & right.keys())]
    return sum(scores) if scores else None


def _score_subtask(images: list[list[bool]]) -> float:
    accuracy = sum(sum(of_image) for of_image in images) / sum(len(of_image) for of_image in images)
    accuracy_plus = sum(all(of_image) for of_image in images) / len(images)
    return 100 * accuracy + 100 * accuracy_plus
