"""Benchmark ``chartqa``: questions about charts, written by people (human) and generated (augmented).

Source: vis-nlp/ChartQA (arXiv:2203.10244); scored as lmms-eval 0.7.3 does.
"""

from __future__ import annotations

from collections.abc import Iterator

from llava_moe.eval.download import Download, texts_of
from llava_moe.eval.laid_out import Row
from llava_moe.eval.metrics import chartqa_relaxed_accuracy
from llava_moe.eval.protocol import Wording
from llava_moe.eval.published_benchmark import Item, Published, Scorer

_PARTS = {"0": "human", "1": "augmented", "machine": "augmented"}


def read(download: Download) -> Iterator[Item]:
    """``test_human.json`` and ``test_augmented.json`` beside ``png/``, or the Parquet of one of the hub's copies."""
    for number, (part, image, row) in enumerate(_rows(download)):
        yield Item(
            id=str(number),
            images=(image,),
            words={"question": download.text(row, "question", "query")},
            references=texts_of(download.cell(row, "answer", "label")),
            part=part,
        )


def _rows(download: Download) -> Iterator[tuple[str, str, Row]]:
    for file in download.find("test-*.parquet"):
        for row in download.rows(file):
            kind = download.text(row, "type", "human_or_machine").removesuffix("_test")
            yield _PARTS.get(kind, kind), download.text(row, "image"), row
    if download.find("test-*.parquet"):
        return
    for part in ("human", "augmented"):
        file = download.need(f"test_{part}.json")[0]
        for row in download.rows(file):
            yield part, download.image(f"png/{download.text(row, 'imgname')}", beside=file), row


def score(item: Item, prediction: str) -> dict[str, float]:
    """Relaxed accuracy."""
    return {"chartqa_relaxed_accuracy": chartqa_relaxed_accuracy(prediction, item.references)}


BENCHMARK = Published(
    domain="documents",
    remedy="run `hf download lmms-lab/ChartQA --repo-type dataset --local-dir FOLDER`, or extract "
    "`ChartQA Dataset.zip`",
    read=read,
    scorers={"": Scorer("relaxed_correctness of lmms-eval 0.7.3", ("chartqa_relaxed_accuracy",), score)},
    wordings={
        "lmms_eval": Wording(
            "{question}\nAnswer the question with a single word.", "lmms-eval 0.7.3 tasks/chartqa/chartqa.yaml", 16
        )
    },
    known={2500: "test: 1,250 human and 1,250 augmented"},
    notes=("All is the mean over all questions of both parts.",),
)
