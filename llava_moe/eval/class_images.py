"""Sets of small images in classes: CIFAR's and MNIST's binary files, and their Parquet, as questions.

Pickles, as CIFAR's Python version has them, are never opened.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from llava_moe.errors import UserError
from llava_moe.eval.download import Download
from llava_moe.eval.metrics import classification_exact, classification_has_word
from llava_moe.eval.mixlora_files import mixlora_items
from llava_moe.eval.published_benchmark import Item

REMEDY_PICKLE = "not the Python version, whose pickles are never opened"
_SIDE = 32


def class_names(words: str) -> tuple[tuple[str, ...], ...]:
    """Names from words with underscores for blanks, in the order of their numbers; each may have several."""
    return tuple((word.replace("_", " "),) for word in words.split())


def read_classes(
    download: Download,
    *,
    names: Sequence[tuple[str, ...]],
    question: str,
    task: str,
    binary: str,
    label_bytes: int,
    columns: tuple[str, ...],
) -> Iterator[Item]:
    """The test images of a set, asked one and the same question.

    Args:
        names: answers that count, by the class's number.
        task: the name of MixLoRA's file.
        binary: the binary file; ``label_bytes`` before each image, the last of them the class (0: MNIST's two files).
        columns: names that the class's number has in Parquet.
    """
    words = {"question": question}
    if files := download.find("test-*.parquet"):
        for file in files:
            for number, row in enumerate(download.rows(file)):
                image, label = download.text(row, "img", "image"), int(download.text(row, *columns))
                said = names[range(len(names)).index(label)]
                yield Item(f"{file.rpartition('/')[2]}#{number}", (image,), words, said, closed=True)
        return
    if not download.find(binary) and download.find(f"{task}.jsonl"):
        yield from mixlora_items(
            download, task, closed=True, references=lambda target: (target.replace("_", " ").strip("."),)
        )
        return
    file = download.need("test-*.parquet", binary)[0]
    images = _cifar(download, file, label_bytes) if label_bytes else _mnist(download, file)
    for number, (label, pixels) in enumerate(images):
        yield Item(f"test#{number}", (_png(pixels),), words, names[label], closed=True)


def score_classes(item: Item, prediction: str) -> dict[str, float]:
    """LVLM-eHub's two scores."""
    return {
        "classification_has_word": classification_has_word(prediction, item.references),
        "classification_exact": classification_exact(prediction, item.references),
    }


def _cifar(download: Download, file: str, label_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    size = label_bytes + 3 * _SIDE * _SIDE
    content = np.frombuffer(download.bytes_of(file), dtype=np.uint8)
    if len(content) == 0 or len(content) % size:
        raise UserError(f"{file}: {len(content):,} bytes are no whole number of images of {size:,}; fetch it again")
    for record in content.reshape(-1, size):
        yield int(record[label_bytes - 1]), record[label_bytes:].reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)


def _mnist(download: Download, file: str) -> Iterator[tuple[int, np.ndarray]]:
    labels_file = file.replace("images", "labels").replace("idx3", "idx1")
    images, labels = (_idx(download, one) for one in (file, labels_file))
    if images.ndim != 3 or len(images) != len(labels):
        raise UserError(f"{file}: {len(images):,} images and {len(labels):,} labels; fetch both files again")
    yield from zip(map(int, labels), images, strict=True)


def _idx(download: Download, file: str) -> np.ndarray:
    """An array of MNIST's IDX format: two zero bytes, type 8 (uint8), number of axes, each axis as 4 bytes."""
    content = download.bytes_of(file)
    num_axes = content[3] if len(content) > 4 and content[:3] == b"\x00\x00\x08" else 0
    shape = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(num_axes)]
    values = np.frombuffer(content[4 + 4 * num_axes :], dtype=np.uint8)
    if not shape or values.size != np.prod(shape):
        raise UserError(f"{file}: not an IDX file of {shape or 'any shape'}, or cut short; fetch it again")
    return values.reshape(shape)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()
