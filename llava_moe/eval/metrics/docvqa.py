"""ANLS, average normalised Levenshtein similarity, of DocVQA: two scorers in use that disagree.

Both take, over the references, the best ``s = 1 - distance / length`` and set low values to 0. They differ in what is
compared, in what the length is, and in whether exactly one half survives; say which one a number was made with.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from llava_moe.eval.metrics.plain import expect_references

THRESHOLD = 0.5


def docvqa_anls(prediction: str, references: Sequence[str]) -> float:
    """ANLS as lmms-eval computes it; exactly 0.5 survives.

    The distance is between the texts lower-cased and with blanks collapsed, but the length it is divided by is
    ``max(len(reference.upper()), len(prediction.upper()))`` of the reference as it stands and of the stripped
    prediction; so blanks that collapse still lengthen the denominator. Two texts of blanks score 1.

    Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``api/metrics.py`` ``anls`` (by way of Qwen-VL's copy of the RRC script).
    VLMEvalKit divides by the longer collapsed text; Pix2Struct and UReader's own helper let exactly 0.5 fall to 0, as
    the paper's formula does (arXiv:1907.00490 eq. 1).
    """
    expect_references(references)
    stripped = prediction.strip()
    similarity = 1 - min(_distance_over_raw_length(stripped, reference) for reference in references)
    return similarity if similarity >= THRESHOLD else 0.0


def _distance_over_raw_length(prediction: str, reference: str) -> float:
    distance = Levenshtein.distance(" ".join(reference.lower().split()), " ".join(prediction.lower().split()))
    length = max(len(reference.upper()), len(prediction.upper()))
    return distance / length if length else 0.0


def docvqa_anls_due(prediction: str, references: Sequence[str]) -> float:
    """ANLS as the DUE benchmark and UReader compute it; exactly 0.5 becomes 0.

    Both sides upper-cased, the prediction's line breaks deleted, blanks left as they are (outer ones too); the length
    is the longer of the two upper-cased texts. Two empty texts are equal.

    Source: X-PLUG/mPLUG-DocOwl f91a768 ``UReader/pipeline/eval_utils``: its ``due_evaluator`` (that of
    due-benchmark/evaluator, ``scorers/anls_scorer.py``, with ``ignore_case``) and the step that writes predictions for
    it. :func:`docvqa_anls` says how others differ.
    """
    expect_references(references)
    predicted = prediction.replace("\n", "").upper()
    similarity = max(Levenshtein.normalized_similarity(predicted, reference.upper()) for reference in references)
    return similarity if similarity > THRESHOLD else 0.0
