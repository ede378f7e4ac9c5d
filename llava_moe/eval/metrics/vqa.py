"""Soft accuracy of VQAv2 and TextVQA against ten annotators, and the two normalisers.

Accuracy of a prediction that m of the ten wrote: the mean over the ten leave-one-out sets of ``min(1, matches / 3)``,
so 0, 0.3, 0.6, 0.9, 1 for m = 0, 1, 2, 3, >= 4.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from llava_moe.eval.metrics.plain import expect_references
from llava_moe.eval.metrics.vqa_text import flatten_blanks, settle_digits_and_articles, strip_punctuation


def vqa_normalizer_vqav2(prediction: str) -> str:
    """The VQA evaluation's normaliser: line breaks and tabs to blanks, strip, punctuation, digits and articles.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/vqav2/utils.py`` with the ``process_punctuation`` and
    ``process_digit_article`` of ``tasks/_task_utils/vqa_eval_metric.py``; GT-Vision-Lab/VQA's ``vqaEval.py`` but for
    runs of commas between digits. VLMEvalKit keeps a full stop after a digit ("5.").
    """
    return settle_digits_and_articles(strip_punctuation(flatten_blanks(prediction), comma_runs=True))


def vqa_normalizer_textvqa(prediction: str) -> str:
    """M4C's ``EvalAIAnswerProcessor``: lower-cases, drops ``,`` and ``?`` and splits ``'s`` off, then the VQA rules.

    Without its commas a number never meets the rule for "1,000", so that "a,b" is "ab" here and "b" in VQAv2's.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/_task_utils/vqa_eval_metric.py``, after MMF's of the same name.
    """
    words = prediction.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return settle_digits_and_articles(strip_punctuation(flatten_blanks(words), comma_runs=True))


def vqav2_accuracy(prediction: str, references: Sequence[str]) -> float:
    """VQAv2 soft accuracy; prediction and references are always normalised.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/vqav2/utils.py``. The official script (GT-Vision-Lab/VQA a013f00)
    leaves ten equal references raw and then compares by case; with VQAv2's own references, lower-case throughout, the
    two hardly ever differ.

    Args:
        prediction: the model's text.
        references: the ten annotators' answers; they vote, so repetitions count.
    """
    return _leave_one_out(prediction, references, vqa_normalizer_vqav2)


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """TextVQA soft accuracy with M4C's normaliser on both sides.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/textvqa/utils.py``; LLaVA's ``m4c_evaluator.py`` gives the same.
    VLMEvalKit uses the VQAv2 normaliser, which differs on "a,b", "dog's" and "1.".

    Args:
        prediction: the model's text.
        references: the ten annotators' answers; they vote, so repetitions count.
    """
    return _leave_one_out(prediction, references, vqa_normalizer_textvqa)


def _leave_one_out(prediction: str, references: Sequence[str], normalize: Callable[[str], str]) -> float:
    expect_references(references)
    predicted = normalize(prediction)
    matches = [normalize(reference) == predicted for reference in references]
    num_matches = sum(matches)
    return float(statistics.mean(min(1.0, (num_matches - match) / 3) for match in matches))
