"""Benchmark ``vqav2``: open questions about COCO images with ten answers each; val is scored, test written.

Source: VQA v2.0 (arXiv:1612.00837).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from llava_moe.eval.benchmark import Submission
from llava_moe.eval.download import Download, texts_of
from llava_moe.eval.metrics import vqa_normalizer_vqav2, vqav2_accuracy
from llava_moe.eval.protocol import SHORT_ANSWER, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer

QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


def read(download: Download) -> Iterator[Item]:
    """The official questions and annotations beside ``val2014/``, or the hub's Parquet."""
    files = download.find("validation-*.parquet", "val*.parquet")
    annotations = {}
    if not files:
        files = download.need(QUESTIONS, "v2_OpenEnded_mscoco_*_questions.json")
        annotations = {row["question_id"]: row for file in download.find(ANNOTATIONS) for row in download.rows(file)}
    for file in files:
        for row in download.rows(file):
            full = annotations.get(row.get("question_id"), {}) | row
            image = row.get("image") or _coco_image(download, int(download.text(row, "image_id")), file)
            yield Item(
                id=download.text(row, "question_id"),
                images=(image,),
                words={"question": download.text(row, "question")},
                references=texts_of(full.get("answers")),
                part=str(full.get("answer_type") or "unknown"),
            )


def _coco_image(download: Download, number: int, file: str) -> str:
    split = file.rpartition("mscoco_")[2].split("_")[0].replace("test-dev2015", "test2015")
    return download.image(f"{split}/COCO_{split}_{number:012d}.jpg", beside=file)


def score(item: Item, prediction: str) -> dict[str, float]:
    """Soft accuracy against ten annotators."""
    return {"vqav2_accuracy": vqav2_accuracy(prediction, item.references)}


def most_frequent(item: Item) -> str:
    """The answer that most annotators gave; four who agree make it right."""
    return Counter(map(vqa_normalizer_vqav2, item.references)).most_common(1)[0][0]


def submission(scored: Scored) -> Submission:
    """What EvalAI takes: a list of ``question_id`` and ``answer``."""
    lines = [
        {"question_id": int(item.id), "answer": vqa_normalizer_vqav2(answer.prediction)} for item, answer in scored
    ]
    return Submission("vqav2.submission.json", json.dumps(lines, ensure_ascii=False))


BENCHMARK = Published(
    domain="general",
    remedy=f"put {QUESTIONS}, {ANNOTATIONS} and val2014/ there, or "
    "run `hf download lmms-lab/VQAv2 --repo-type dataset`",
    read=read,
    scorers={"": Scorer("VQA soft accuracy; both sides always normalised, as lmms-eval", ("vqav2_accuracy",), score)},
    wordings={"lmms_eval": Wording(SHORT_ANSWER, "lmms-eval 0.7.3 tasks/vqav2", 16)},
    known={214354: "val2014", 447793: "test2015", 107394: "test-dev2015"},
    notes=("LLaVA-1.5's published 78.5 (7B) is test-dev, scored by EvalAI; val scores are not comparable to it.",),
    oracle=most_frequent,
    submission=submission,
)
