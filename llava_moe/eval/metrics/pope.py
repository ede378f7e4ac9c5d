"""POPE, yes/no questions about objects: the official way to read an answer and its scores, and lmms-eval's.

POPE's three sets (random, popular, adversarial) are scored apart; LLaVA prints the mean F1 of the three.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.eval.metrics.yes_no import expect_pairs, precision_recall_f1

YES_NO = frozenset({"yes", "no"})
_NO_WORDS = frozenset({"No", "not", "no"})


def pope_answer_parse(prediction: str) -> str:
    """``no`` if the first sentence holds the word No, no or not, else ``yes``.

    The sentence ends at the first full stop, commas are deleted, words are split at the blank only; so "NO", "No!",
    "nope", "no" before a line break and the empty text all read as yes. Nothing is stripped or lower-cased.

    Source: RUCAIBox/POPE 3df3ba1 ``evaluate.py``. lmms-eval wants the whole answer to be "yes" or "no"
    (:func:`pope_metrics_lmms_eval`), VLMEvalKit exactly one of the two words (:func:`yes_no_extract`).
    """
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "yes" if _NO_WORDS.isdisjoint(words) else "no"


def pope_metrics(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """POPE's ``accuracy, precision, recall, f1`` (positive = yes) and ``yes_ratio``, the share read as yes; 0..1.

    Source: RUCAIBox/POPE 3df3ba1 ``evaluate.py``, which divides by zero where nothing or no truth is yes; such a ratio
    is 0.0 here.

    Args:
        predictions: the model's raw texts, read by :func:`pope_answer_parse`.
        labels: "yes" or "no"; whatever is not "no" counts as yes, as in the original, so "No" must be lower-cased
            before.

    Raises:
        ValueError: no predictions, or another number of labels.
    """
    expect_pairs(predictions, labels)
    said_yes = [pope_answer_parse(prediction) == "yes" for prediction in predictions]
    is_yes = [label != "no" for label in labels]
    num_right = sum(said == truth for said, truth in zip(said_yes, is_yes, strict=True))
    return {
        "accuracy": num_right / len(predictions),
        **precision_recall_f1(said_yes, is_yes),
        "yes_ratio": sum(said_yes) / len(predictions),
    }


def pope_metrics_lmms_eval(predictions: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """The keys of :func:`pope_metrics` as lmms-eval computes them, for comparison with its figures.

    An answer counts only if it is "yes" or "no" once stripped and lower-cased ("Yes." is wrong). Recall leaves out
    answers that are neither, and ``yes_ratio`` is the share of *labels* that are yes.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/pope/utils.py``.

    Raises:
        ValueError: no predictions, another number of labels, or a label other than yes and no.
    """
    expect_pairs(predictions, labels)
    answers = [prediction.lower().strip() for prediction in predictions]
    truths = [label.lower().strip() for label in labels]
    if unknown := set(truths) - YES_NO:
        raise ValueError(f"POPE's labels are yes and no, got {sorted(unknown)!r}")
    num_right = sum(answer == truth for answer, truth in zip(answers, truths, strict=True))
    read = [
        (answer == "yes", truth == "yes") for answer, truth in zip(answers, truths, strict=True) if answer in YES_NO
    ]
    return {
        "accuracy": num_right / len(answers),
        **precision_recall_f1([said for said, _ in read], [truth for _, truth in read]),
        "yes_ratio": truths.count("yes") / len(truths),
    }
