"""Benchmark ``pathvqa``: pathology, yes/no (closed) and free (open) questions, with LLaVA-Med's scores and strict ones.

Source: PathVQA (arXiv:2003.10286); scores of microsoft/LLaVA-Med b9a98a7 ``llava/eval/run_eval.py``, which papers
quote.
"""

from __future__ import annotations

from collections.abc import Iterator

from llava_moe.eval.benchmark import Expected
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import (
    pathvqa_closed_accuracy,
    pathvqa_closed_accuracy_strict,
    pathvqa_open_f1,
    pathvqa_open_recall,
    squad_exact_match,
    squad_f1,
    yes_no_extract,
)
from llava_moe.eval.protocol import QUESTION_ALONE, Wording
from llava_moe.eval.published_benchmark import Item, Published, Scorer


def read(download: Download) -> Iterator[Item]:
    """The hub's ``test-*.parquet``, or LLaVA-Med's ``test.json`` of conversations beside ``images/``."""
    for file in download.need("test-*.parquet", "test.json", "*test*.json", "*test*.jsonl"):
        for number, row in enumerate(download.rows(file)):
            if "conversations" in row:
                question, answer = (download.as_text(turn["value"], "value") for turn in row["conversations"][:2])
                image = download.image(download.text(row, "image"), "images", beside=file)
            else:
                question, answer = download.text(row, "question"), download.text(row, "answer")
                image = download.text(row, "image")
            closed = answer.strip().lower() in ("yes", "no")
            part = "closed" if closed else "open"
            words = {"question": question}
            yield Item(f"{file.rpartition('/')[2]}#{number}", (image,), words, (answer,), part, part, closed)


def score(item: Item, prediction: str) -> dict[str, float]:
    """Closed: LLaVA-Med's substring rule and the strict one. Open: LLaVA-Med's token recall and F1, SQuAD's scores."""
    if not item.closed:
        return {
            "pathvqa_open_recall": pathvqa_open_recall(prediction, item.references),
            "pathvqa_open_f1": pathvqa_open_f1(prediction, item.references),
            "squad_exact_match": squad_exact_match(prediction, item.references),
            "squad_f1": squad_f1(prediction, item.references),
        }
    return {
        "pathvqa_closed_accuracy": pathvqa_closed_accuracy(prediction, item.references),
        "pathvqa_closed_accuracy_strict": pathvqa_closed_accuracy_strict(prediction, item.references),
        "pathvqa_closed_unreadable": float(yes_no_extract(prediction) == "Unknown"),
    }


BENCHMARK = Published(
    domain="medical",
    remedy="run `hf download flaviagiammarino/path-vqa --repo-type dataset --local-dir FOLDER`",
    read=read,
    scorers={
        "": Scorer(
            name="LLaVA-Med b9a98a7 run_eval.py; strict yes/no and SQuAD's beside it",
            columns=("pathvqa_closed_accuracy", "pathvqa_open_recall", "pathvqa_open_f1", "squad_exact_match"),
            score=score,
            expected=Expected(oracle={"pathvqa_closed_unreadable": 0.0}, empty={"pathvqa_closed_unreadable": 1.0}),
        )
    },
    wordings={
        "llava_1_5": Wording(QUESTION_ALONE, "microsoft/LLaVA-Med llava/eval/model_vqa_med.py: the question alone")
    },
    known={6719: "test of flaviagiammarino/path-vqa, without the original's repetitions", 6761: "the original test"},
    notes=(
        "LLaVA-Med's closed score counts substrings: 'normal' reads as no, an answer with both words is always right; "
        "pathvqa_closed_accuracy_strict wants exactly one of the words.",
        "LLaVA-Med itself samples at temperature 0.7; every protocol here says how it draws.",
    ),
)
