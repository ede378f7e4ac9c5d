"""Benchmark ``cifar10``: name the main object of a 32 x 32 photograph, of ten classes.

Source: CIFAR-10; scored as LVLM-eHub scores classification (class name as a word of the answer, or alone).
"""

from __future__ import annotations

from functools import partial

from llava_moe.eval.class_images import REMEDY_PICKLE, class_names, read_classes, score_classes
from llava_moe.eval.mixlora_files import REMEDY_MIXLORA
from llava_moe.eval.published_benchmark import Published, Scorer

NAMES = class_names("airplane automobile bird cat deer dog frog horse ship truck")
QUESTION = "Classify the main object in the image."

SCORERS = {
    "": Scorer(
        name="LVLM-eHub: class name as a whole word (has_word), or alone (exact)",
        columns=("classification_has_word", "classification_exact"),
        score=score_classes,
    )
}
NOTES = ("MixLoRA reports a judge's score; has_word is a deterministic stand-in.",)
BENCHMARK = Published(
    domain="general",
    remedy="run `hf download uoft-cs/cifar10 --repo-type dataset --local-dir FOLDER`, extract "
    f"cifar-10-binary.tar.gz there ({REMEDY_PICKLE}), {REMEDY_MIXLORA}",
    read=partial(
        read_classes,
        names=NAMES,
        question=QUESTION,
        task="cifar_10",
        binary="test_batch.bin",
        label_bytes=1,
        columns=("label",),
    ),
    scorers=SCORERS,
    known={10000: "test"},
    notes=("The question is Multi-Modality-Arena's for CIFAR-10.", *NOTES),
)
