"""Benchmark ``textvqa``: questions about text in photographs, asked without OCR tokens (textvqa_ocr has them).

Source: TextVQA v0.5.1 (arXiv:1904.08920); scored as M4C, LLaVA and lmms-eval do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from llava_moe.eval.download import Download, texts_of
from llava_moe.eval.metrics import textvqa_accuracy, vqa_normalizer_textvqa
from llava_moe.eval.mixlora_files import mixlora_items
from llava_moe.eval.protocol import Wording
from llava_moe.eval.published_benchmark import Item, Published, Scorer

SHORT = "\nAnswer the question using a single word or phrase."
REMEDY = (
    "run `hf download lmms-lab/textvqa --repo-type dataset --include 'data/validation-*' --local-dir FOLDER`, or put "
    "TextVQA_0.5.1_val.json and train_images/ there"
)


def read(download: Download) -> Iterator[Item]:
    """``TextVQA_0.5.1_val.json`` beside ``train_images/``, the hub's Parquet, or MixLoRA's ``text_vqa.jsonl``."""
    patterns = ("validation-*.parquet", "TextVQA_0.5.1_val.json")
    if not download.find(*patterns) and download.find("text_vqa.jsonl"):
        yield from mixlora_items(download, "text_vqa", references=lambda target: (target,) * 10)
        return
    ocr_tokens = _ocr_tokens(download)
    for file in download.need(*patterns):
        for row in download.rows(file):
            image_id = download.text(row, "image_id")
            image = row.get("image") or download.image(f"train_images/{image_id}.jpg", "train_images", beside=file)
            question = download.text(row, "question")
            tokens = row.get("ocr_tokens", ocr_tokens.get(image_id))
            yield Item(
                id=download.text(row, "question_id"),
                images=(image,),
                words={"question": question, "capitalized": question.capitalize()}
                | ({} if tokens is None else {"ocr_tokens": ", ".join(tokens)}),
                references=texts_of(row.get("answers")),
            )


def _ocr_tokens(download: Download) -> dict[str, list[str]]:
    files = download.find("TextVQA_Rosetta_OCR_v0.2_val.json")
    return {row["image_id"]: row["ocr_tokens"] for file in files for row in download.rows(file)}


def score(item: Item, prediction: str) -> dict[str, float]:
    """Soft accuracy against ten annotators."""
    return {"textvqa_accuracy": textvqa_accuracy(prediction, item.references)}


def most_frequent(item: Item) -> str:
    """The answer that most annotators gave; four who agree make it right."""
    return Counter(map(vqa_normalizer_textvqa, item.references)).most_common(1)[0][0]


SCORERS = {"": Scorer("M4C's EvalAIAnswerProcessor, as LLaVA-1.5 and lmms-eval", ("textvqa_accuracy",), score)}
KNOWN = {5000: "val of v0.5.1", 5734: "test, whose answers are not published"}
BENCHMARK = Published(
    domain="general",
    remedy=REMEDY,
    read=read,
    scorers=SCORERS,
    wordings={"lmms_eval": Wording("{capitalized}" + SHORT, "lmms-eval 0.7.3 tasks/textvqa: ocr false", 1024)},
    known=KNOWN,
    notes=("Asked without OCR tokens; LLaVA-1.5's published 58.2 (7B) has them: benchmark textvqa_ocr.",),
    oracle=most_frequent,
)
