"""Relaxed accuracy of ChartQA.

Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 ``tasks/chartqa/utils.py`` ``relaxed_correctness``, the same text as in
Pix2Struct, Qwen-VL and VLMEvalKit; the measure is ChartQA section 5.1 (arXiv:2203.10244). UReader's copy strips no
outer blanks but deletes line breaks on both sides and one full stop at the end of the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.eval.metrics.plain import expect_references

MAX_RELATIVE_CHANGE = 0.05


def chartqa_relaxed_accuracy(prediction: str, references: Sequence[str]) -> float:
    """1.0 if a number is within 5 % of the reference, or the texts agree but for case; the best reference counts.

    ``|p - g| / |g| <= 0.05`` when both sides read as numbers and g is not 0, else equality of the lower-cased texts.
    "x%" reads as x/100. What follows from the original's code and is kept: a reference "0" has no tolerance,
    thousands commas, currency and units do not read as numbers, years get their 5 %, a trailing full stop after a
    word is a miss, "nan" and "inf" never match a reference that reads as a number, not even themselves. What Python's
    ``float`` reads is a number ("1_000", "1e3", digits of any script). Outer blanks of the prediction are stripped,
    those of a reference are not.
    """
    expect_references(references)
    stripped = prediction.strip()
    return max(_relaxed(stripped, reference) for reference in references)


def _relaxed(prediction: str, reference: str) -> float:
    predicted_value, reference_value = _read_number(prediction), _read_number(reference)
    if predicted_value is not None and reference_value:
        return float(abs(predicted_value - reference_value) / abs(reference_value) <= MAX_RELATIVE_CHANGE)
    return float(prediction.lower() == reference.lower())


def _read_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
