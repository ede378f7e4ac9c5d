"""Benchmark ``vsr``: is a caption about where things are true of its image?

Source: cambridgeltl/visual-spatial-reasoning (arXiv:2205.00363); read and scored as VLMEvalKit's VSR-zeroshot.
"""

from __future__ import annotations

from collections.abc import Iterator

from llava_moe.eval.benchmark import Expected, Measure
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import yes_no_extract, yes_no_metrics
from llava_moe.eval.mixlora_files import REMEDY_MIXLORA, mixlora_items
from llava_moe.eval.protocol import Wording
from llava_moe.eval.published_benchmark import Item, Published, Scored, Scorer, mean_scores

_LABELS = {"1": "yes", "0": "no", "true": "yes", "false": "no"}


def read(download: Download) -> Iterator[Item]:
    """``test.jsonl`` (``image, caption, label, relation``) beside ``images/``, or MixLoRA's file."""
    if download.find("visual_spatial_reasoning.jsonl") and not download.find("test*.jsonl"):
        yield from mixlora_items(download, "visual_spatial_reasoning", closed=True, references=_yes_or_no)
        return
    for file in download.need("test.jsonl", "test*.jsonl", "test-*.parquet", "test/*.parquet"):
        for number, row in enumerate(download.rows(file)):
            image = download.text(row, "image")
            caption = download.text(row, "caption")
            yield Item(
                id=f"{file.rpartition('/')[2]}#{number}",
                images=(download.image(image, "images", "trainval2017", "train2017", "val2017", beside=file),),
                words={"question": f'Is the caption "{caption}" correctly describing the image?', "caption": caption},
                references=_yes_or_no(download.text(row, "label")),
                kind=str(row.get("relation") or "question"),
                closed=True,
            )


def _yes_or_no(label: str) -> tuple[str, ...]:
    plain = label.strip().strip(".").lower()
    return (_LABELS.get(plain, plain),)


def score(item: Item, prediction: str) -> dict[str, float]:
    """Right, and readable: exactly one of yes and no is a word of the answer."""
    said = yes_no_extract(prediction).lower()
    return {"vsr_accuracy": float(said == item.references[0]), "vsr_unreadable": float(said == "unknown")}


def measure(scored: Scored) -> dict[str, Measure]:
    """Accuracy, and precision, recall and F1 of yes; unreadable answers are wrong, and no yes."""
    found = yes_no_metrics([answer.prediction for _, answer in scored], [item.references[0] for item, _ in scored])
    ratios = {f"vsr_{name}": Measure(found[name], len(scored)) for name in ("precision", "recall", "f1")}
    return mean_scores(scored) | ratios


BENCHMARK = Published(
    domain="general",
    answers=("yes", "no"),
    remedy="put test.jsonl of cambridgeltl/vsr_random or vsr_zeroshot and its images/ there, " + REMEDY_MIXLORA,
    read=read,
    scorers={
        "": Scorer(
            name="VLMEvalKit VSR-zeroshot: exactly one of yes and no as a word",
            columns=("vsr_accuracy", "vsr_precision", "vsr_recall", "vsr_f1"),
            score=score,
            expected=Expected(oracle={"vsr_unreadable": 0.0}, empty={"vsr_unreadable": 1.0}),
            measure_part=measure,
        )
    },
    wordings={
        "llava_mole": Wording(
            'Question: Is the caption "{caption}" correctly describing the image?\n\n'
            "Choose the single most likely answer from the following choices <choice>:\n- Yes\n- No\n\n"
            "The output format follows exactly as below:\nAnswer: <choice>",
            "OpenGVLab/Multi-Modality-Arena tiny_lvlm_evaluation/README.md",
        )
    },
    known={2195: "test of vsr_random", 1222: "test of vsr_zeroshot", 616: "test of vsr_zeroshot, first release"},
    notes=("Except under llava_mole the question is worded as Multi-Modality-Arena's first sentence.",),
)
