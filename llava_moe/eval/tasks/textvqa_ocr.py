"""Benchmark ``textvqa_ocr``: TextVQA with the reference OCR tokens in the prompt, as LLaVA-1.5 reports it.

Reads what ``textvqa`` reads. Source: haotian-liu/LLaVA ``llava_textvqa_val_v051_ocr.jsonl``.
"""

from __future__ import annotations

from collections.abc import Iterator

from llava_moe.errors import UserError
from llava_moe.eval.download import Download
from llava_moe.eval.protocol import Wording
from llava_moe.eval.published_benchmark import Item, Published
from llava_moe.eval.tasks import textvqa

OCR = "\nReference OCR token: {ocr_tokens}"


def read(download: Download) -> Iterator[Item]:
    """As ``textvqa``; every question must have its OCR tokens, which may be none."""
    for item in textvqa.read(download):
        if "ocr_tokens" not in item.words:
            raise UserError(
                f"benchmark {download.name}: question {item.id} has no OCR tokens; put "
                "TextVQA_Rosetta_OCR_v0.2_val.json beside TextVQA_0.5.1_val.json, take the hub's Parquet, or "
                "score benchmark textvqa"
            )
        yield item


BENCHMARK = Published(
    domain="general",
    remedy=textvqa.REMEDY,
    read=read,
    scorers=textvqa.SCORERS,
    wordings={
        "llava_1_5": Wording(
            "{question}" + OCR + textvqa.SHORT, "haotian-liu/LLaVA llava_textvqa_val_v051_ocr.jsonl (eval.zip)"
        ),
        "lmms_eval": Wording("{capitalized}" + OCR + textvqa.SHORT, "lmms-eval 0.7.3 tasks/textvqa: ocr true", 1024),
        "llava_mole": Wording("{question}" + OCR, "ours: LLaVA-MoLE's release asks without OCR tokens"),
        "mixlora": Wording("{question}" + OCR, "ours: MixLoRA's files ask without OCR tokens"),
    },
    known=textvqa.KNOWN,
    folder="textvqa",
    notes=("Asked with Rosetta's OCR tokens; scores without them stand under benchmark textvqa.",),
    oracle=textvqa.most_frequent,
)
