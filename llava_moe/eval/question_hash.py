"""Fingerprints of questions, by which kept answers are known to be answers to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from llava_moe.data.conversation import BadRecord, ImageRef, StoredImage
from llava_moe.data.images.paths import find_image
from llava_moe.data.images.tiff_pages import split_page
from llava_moe.data.readers.content import hash_of
from llava_moe.eval.benchmark import GREEDY, Question


def question_hashes(questions: Sequence[Question], image_root: str | None = None) -> dict[str, str]:
    """Each question's id with its :func:`question_hash`; every image file is read once."""
    marks: dict[str, str | bytes] = {}
    for question in questions:
        for image in question.images:
            if isinstance(image, str) and image not in marks:
                marks[image] = _image_mark(image, image_root)
    return {question.id: _hash(question, marks) for question in questions}


def question_hash(question: Question, image_root: str | None = None) -> str:
    """16 hex digits over all that the model is given and held against: images, prompt, references, length, decoding.

    An image counts by its content, so that a folder of images may move, and other pictures under the same names are
    other questions; one that is not there by the last two names of its path. What a question leaves at its default
    adds nothing.
    """
    return question_hashes([question], image_root)[question.id]


def _hash(question: Question, marks: Mapping[str, str | bytes]) -> str:
    digest = hashlib.sha256()
    texts = [question.prompt, *question.references, str(question.max_new_tokens)]
    if question.decoding != GREEDY:
        texts.append(repr(question.decoding))
    if question.system is not None:
        texts.append(f"system: {question.system}")
    texts += [f"{turn.role}: {turn.text}" for turn in question.turns]
    shown = [marks[image] if isinstance(image, str) else _image_mark(image, None) for image in question.images]
    for part in [*shown, *texts]:
        encoded = part if isinstance(part, bytes) else part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:16]


def _image_mark(image: ImageRef, image_root: str | None) -> str | bytes:
    if isinstance(image, StoredImage):
        return image.sha256
    if not isinstance(image, str):
        return image
    try:
        with open(find_image(image, image_root), "rb") as file:
            # A page of a document is told from the others by its number.
            return f"{hash_of(file)} {split_page(image)[1]}"
    except (OSError, BadRecord):
        return "/".join(image.split("/")[-2:])
