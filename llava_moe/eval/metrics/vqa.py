"""Soft accuracy of VQAv2 and TextVQA against ten annotators, and the two normalisers.

Accuracy of a prediction that m of the ten wrote: the mean over the ten leave-one-out sets of ``min(1, matches / 3)``,
so 0, 0.3, 0.6, 0.9, 1 for m = 0, 1, 2, 3, >= 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llava_moe.eval.metrics.plain import expect_references
from llava_moe.eval.metrics.vqa_text import flatten_blanks, settle_digits_and_articles, strip_punctuation


def vqa_normalizer_vqav2(prediction: str) -> str:
    """The VQA evaluation's normaliser: line breaks and tabs to blanks, strip, punctuation, digits and articles."""
    return settle_digits_and_articles(strip_punctuation(flatten_blanks(prediction), comma_runs=True))


def vqa_normalizer_textvqa(prediction: str) -> str:
    """M4C's ``EvalAIAnswerProcessor``: lower-cases, drops ``,`` and ``?`` and splits ``'s`` off, then the VQA rules.

    Source: EvolvingLMMs-Lab/lmms-eval ``tasks/_task_utils/vqa_eval_metric.py``.
    """
    words = prediction.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return settle_digits_and_articles(strip_punctuation(flatten_blanks(words), comma_runs=True))


def vqav2_accuracy(prediction: str, references: Sequence[str]) -> float:
    """VQAv2 soft accuracy; prediction and references are always normalised.

    The official script leaves ten equal references raw; lmms-eval does not, and is followed.

    Args:
        prediction: the model's text.
        references: the ten annotators' answers; they vote, so repetitions count.
    """
    return _leave_one_out(prediction, references, vqa_normalizer_vqav2)


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """TextVQA soft accuracy with M4C's normaliser on both sides (lmms-eval ``tasks/textvqa/utils.py``)."""
    return _leave_one_out(prediction, references, vqa_normalizer_textvqa)


def _leave_one_out(prediction: str, references: Sequence[str], normalize: Callable[[str], str]) -> float:
    expect_references(references)
    predicted = normalize(prediction)
    matches = [normalize(reference) == predicted for reference in references]
    num_matches = sum(matches)
    return sum(min(1.0, (num_matches - match) / 3) for match in matches) / len(matches)
