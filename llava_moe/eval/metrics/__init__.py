"""Metrics of the papers' benchmarks, each equal to a named reference implementation, its quirks included.

Every score is 0..1 except ``tiny_lvlm_overall`` (at most 500) and ``mme_score``. ``references`` is a list of texts of
which the best counts, except where ten annotators vote.
"""

from __future__ import annotations

from llava_moe.eval.metrics.chartqa import chartqa_relaxed_accuracy
from llava_moe.eval.metrics.classification import classification_exact, classification_has_word
from llava_moe.eval.metrics.docvqa import docvqa_anls, docvqa_anls_due
from llava_moe.eval.metrics.mmbench import mmbench_circular, mmbench_extract
from llava_moe.eval.metrics.mme import mme_answer_parse, mme_answer_parse_lmms_eval, mme_score
from llava_moe.eval.metrics.pathvqa import (
    pathvqa_closed_accuracy,
    pathvqa_closed_accuracy_strict,
    pathvqa_open_f1,
    pathvqa_open_recall,
)
from llava_moe.eval.metrics.plain import exact_match
from llava_moe.eval.metrics.pope import pope_answer_parse, pope_metrics, pope_metrics_lmms_eval
from llava_moe.eval.metrics.squad import squad_exact_match, squad_f1
from llava_moe.eval.metrics.tiny_lvlm import tiny_lvlm_cee_vote, tiny_lvlm_overall, tiny_lvlm_word_match
from llava_moe.eval.metrics.vqa import textvqa_accuracy, vqa_normalizer_textvqa, vqa_normalizer_vqav2, vqav2_accuracy
from llava_moe.eval.metrics.yes_no import yes_no_extract, yes_no_metrics

__all__ = [
    "chartqa_relaxed_accuracy",
    "classification_exact",
    "classification_has_word",
    "docvqa_anls",
    "docvqa_anls_due",
    "exact_match",
    "mmbench_circular",
    "mmbench_extract",
    "mme_answer_parse",
    "mme_answer_parse_lmms_eval",
    "mme_score",
    "pathvqa_closed_accuracy",
    "pathvqa_closed_accuracy_strict",
    "pathvqa_open_f1",
    "pathvqa_open_recall",
    "pope_answer_parse",
    "pope_metrics",
    "pope_metrics_lmms_eval",
    "squad_exact_match",
    "squad_f1",
    "textvqa_accuracy",
    "tiny_lvlm_cee_vote",
    "tiny_lvlm_overall",
    "tiny_lvlm_word_match",
    "vqa_normalizer_textvqa",
    "vqa_normalizer_vqav2",
    "vqav2_accuracy",
    "yes_no_extract",
    "yes_no_metrics",
]
