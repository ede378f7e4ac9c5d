"""Benchmark ``snli_ve``: does a Flickr30k image entail a sentence, contradict it, or neither (neutral)?

Source: necla-ml/SNLI-VE (arXiv:1901.06706). MixLoRA's release has no scorer for it (a judge reads the answers): what
stands here is a declared, deterministic stand-in.
"""

from __future__ import annotations

from collections.abc import Iterator

from llava_moe.eval.benchmark import Expected
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import classification_exact, classification_has_word
from llava_moe.eval.mixlora_files import REMEDY_MIXLORA, mixlora_items
from llava_moe.eval.published_benchmark import Item, Published, Scorer

LABELS = ("entailment", "neutral", "contradiction")


def read(download: Download) -> Iterator[Item]:
    """``snli_ve_test.jsonl`` beside ``flickr30k-images/``, a Parquet copy of the hub's, or MixLoRA's file."""
    if download.find("snli_ve_classification.jsonl") and not download.find("snli_ve_test.jsonl"):
        yield from mixlora_items(download, "snli_ve_classification", closed=True, references=_label)
        return
    for file in download.need("snli_ve_test.jsonl", "test-*.parquet"):
        for number, row in enumerate(download.rows(file)):
            label = download.text(row, "gold_label", "label")
            if label == "-":  # no majority among the annotators
                continue
            statement = download.text(row, "sentence2", "hypothesis", "sentence")
            image = row.get("image") or download.image(
                f"{download.text(row, 'Flickr30K_ID')}.jpg", "flickr30k-images", "flickr30k_images", beside=file
            )
            yield Item(
                id=str(row.get("pairID") or f"{file.rpartition('/')[2]}#{number}"),
                images=(image,),
                words={"question": _ask(statement)},
                references=_label(label),
                kind=_label(label)[0],
                closed=True,
            )


def _ask(statement: str) -> str:
    return (
        f'Given the image, is the statement "{statement}" an entailment, a contradiction, or neutral? '
        "Answer entailment, contradiction or neutral."
    )


def _label(label: str) -> tuple[str, ...]:
    return (LABELS[int(label)] if label.isdigit() else label.strip().strip(".").lower(),)


def score(item: Item, prediction: str) -> dict[str, float]:
    """Right if the gold label is the only one of the three that is a word of the answer."""
    named = [label for label in LABELS if classification_has_word(prediction, [label])]
    return {
        "snli_ve_accuracy": float(named == list(item.references)),
        "snli_ve_unreadable": float(len(named) != 1),
        "classification_exact": classification_exact(prediction, item.references),
    }


BENCHMARK = Published(
    domain="general",
    answers=LABELS,
    remedy="put snli_ve_test.jsonl and Flickr30k's images in flickr30k-images/ there, " + REMEDY_MIXLORA,
    read=read,
    scorers={
        "": Scorer(
            name="ours: exactly one of the three labels as a word",
            columns=("snli_ve_accuracy", "classification_exact"),
            score=score,
            expected=Expected(oracle={"snli_ve_unreadable": 0.0}, empty={"snli_ve_unreadable": 1.0}),
        )
    },
    known={17901: "test", 17858: "dev"},
    notes=("The question is worded by llava-moe, but for MixLoRA's own file; MixLoRA reports a judge's score.",),
)
