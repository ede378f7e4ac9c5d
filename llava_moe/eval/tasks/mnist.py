"""Benchmark ``mnist``: name a handwritten digit, as a numeral or a word.

Source: MNIST; scored as ``cifar10``.
"""

from __future__ import annotations

from functools import partial

from llava_moe.eval.class_images import read_classes
from llava_moe.eval.mixlora_files import REMEDY_MIXLORA
from llava_moe.eval.published_benchmark import Published
from llava_moe.eval.tasks import cifar10

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAMES = tuple((str(digit), word) for digit, word in enumerate(WORDS))
BENCHMARK = Published(
    domain="general",
    remedy="run `hf download ylecun/mnist --repo-type dataset --local-dir FOLDER`, put t10k-images-idx3-ubyte and "
    f"t10k-labels-idx1-ubyte (or their .gz) there, {REMEDY_MIXLORA}",
    read=partial(
        read_classes,
        names=NAMES,
        question="Which digit is written in the image?",
        task="mnist",
        binary="t10k-images*idx3-ubyte*",
        label_bytes=0,
        columns=("label",),
    ),
    scorers=cifar10.SCORERS,
    known={10000: "test"},
    notes=("The question is worded by llava-moe.", *cifar10.NOTES),
)
