"""Benchmark ``docvqa``: questions about scanned pages; val is scored, test is written for submission.

Both ANLS in use are reported, and they disagree: lmms-eval's keeps a similarity of exactly one half, DUE's (UReader's)
does not. Source: DocVQA task 1 (arXiv:2007.00398).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from llava_moe.eval.benchmark import Submission
from llava_moe.eval.download import Download, texts_of
from llava_moe.eval.metrics import docvqa_anls, docvqa_anls_due
from llava_moe.eval.protocol import SHORT_ANSWER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer

VAL = ("val_v1.0_withQT.json", "val_v1.0.json")


def read(download: Download) -> Iterator[Item]:
    """``val_v1.0*.json`` beside ``documents/`` or ``spdocvqa_images/``, or the hub's Parquet.

    The test split is read where its file is named: ``benchmark_paths={docvqa: FOLDER/test_v1.0.json}``.
    """
    for file in download.need("DocVQA/validation-*.parquet", "validation-*.parquet", *VAL):
        for row in download.rows(file):
            image = download.text(row, "image")
            if not file.endswith(".parquet"):
                image = download.image(image, "documents", "spdocvqa_images", beside=file)
            yield Item(
                id=download.text(row, "questionId"),
                images=(image,),
                words={"question": download.text(row, "question")},
                references=texts_of(row.get("answers")),
                kind=", ".join(texts_of(row.get("question_types"))) or "question",
            )


def score(item: Item, prediction: str) -> dict[str, float]:
    """Both ANLS."""
    return {
        "docvqa_anls": docvqa_anls(prediction, item.references),
        "docvqa_anls_due": docvqa_anls_due(prediction, item.references),
    }


def submission(scored: Scored) -> Submission:
    """What the RRC server takes: a list of ``questionId`` and ``answer``."""
    lines = [{"questionId": int(item.id), "answer": answer.prediction} for item, answer in scored]
    return Submission("docvqa.submission.json", json.dumps(lines, ensure_ascii=False))


BENCHMARK = Published(
    domain="documents",
    remedy="run `hf download lmms-lab/DocVQA --repo-type dataset --local-dir FOLDER`, or extract the "
    "RRC's task 1 files",
    read=read,
    scorers={
        "": Scorer("anls of lmms-eval 0.7.3; DUE's beside it", ("docvqa_anls", "docvqa_anls_due"), score),
        "llava_mole": Scorer(
            "DUE's anls, as UReader; lmms-eval's beside it", ("docvqa_anls_due", "docvqa_anls"), score
        ),
    },
    wordings={"lmms_eval": Wording(SHORT_ANSWER, "lmms-eval 0.7.3 tasks/docvqa", 32)},
    known={5349: "val", 5188: "test, whose answers only the RRC server knows"},
    submission=submission,
)
