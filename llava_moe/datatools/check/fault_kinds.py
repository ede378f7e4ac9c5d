"""The kinds of fault that ``data check`` knows, each with what it means and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Severity = Literal["fault", "listed", "note"]
SEVERITIES: tuple[Severity, ...] = ("fault", "listed", "note")
"""The worst first."""
Unit = Literal["records", "images", "source"]


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        severity: what training does with the record. One with a ``fault`` it leaves out by itself, one that is
            ``listed`` it takes unless it is given the quarantine list; both go on the list. A ``note`` is only told.
        unit: what is counted. A fault of a ``source`` is one of the whole source.
        meaning: a sentence.
        remedy: a sentence.
    """

    name: str
    severity: Severity
    unit: Unit
    meaning: str
    remedy: str


def _faults(*rows: tuple[str, str, str]) -> list[Kind]:
    return [Kind(name, "fault", "records", meaning, remedy) for name, meaning, remedy in rows]


def _listed(*rows: tuple[str, str, str]) -> list[Kind]:
    return [Kind(name, "listed", "records", meaning, remedy) for name, meaning, remedy in rows]


def _notes(unit: Unit, *rows: tuple[str, str, str]) -> list[Kind]:
    return [Kind(name, "note", unit, meaning, remedy) for name, meaning, remedy in rows]


_SOURCES = [
    Kind(
        "source_unreadable",
        "fault",
        "source",
        "The source cannot be opened, so training would not begin.",
        "Do what the line says; it names the file.",
    ),
    Kind(
        "image_root",
        "fault",
        "source",
        "None of the images looked for lies under the source's image folder; its images were not checked.",
        "Give the folder that the paths in the records start from as images=.",
    ),
    Kind(
        "no_images",
        "fault",
        "source",
        "An image folder is given, and none of the source's records has an image that is read.",
        "Put the images under the key image or images; leave images= out where the text is all there is.",
    ),
    Kind(
        "nothing_usable",
        "fault",
        "source",
        "Not one record of the source can be trained on.",
        "See the faults of its records; a wrong format= or train.max_length is the usual cause.",
    ),
    Kind(
        "shard_changed",
        "fault",
        "source",
        "A shard's content is not what its manifest says.",
        "Copy the shard again, or run llava-moe data prepare again with restart=true.",
    ),
    *_notes(
        "source",
        (
            "count_differs",
            "The source does not hold as many records as were published.",
            "A download may be cut short, or the publisher changed the file: compare it with the recipe's page.",
        ),
        (
            "split_unread",
            "The source holds splits that are not read: without split= training reads train.",
            "Nothing to do; or name the split with split=.",
        ),
        (
            "rejected_by_prepare",
            "The preparation left raw records out.",
            "rejected.jsonl in the prepared folder names each with its reason.",
        ),
    ),
]
_TEXT = _faults(
    (
        "not_a_conversation",
        "The record is no object, or its conversation is missing or has another shape.",
        "Fix the record; turns stand under conversations, as from and value, or role and text.",
    ),
    (
        "unreadable_text",
        "A text of the record is no UTF-8, or holds half a surrogate pair, which no UTF-8 can hold.",
        "Write the text again.",
    ),
    (
        "doubled_key",
        "A key stands twice in one object of the record: which of the two values is meant, nothing says.",
        "Drop or rename one of the two.",
    ),
    (
        "unread_media",
        "A key or a mark in the text carries an image, a video or sound that the format does not read.",
        "Put images under image or images with <image> in the text; leave records with video or sound out.",
    ),
    ("tool_call", "The record calls tools or offers them, which is not supported.", "Leave the record out."),
    (
        "system_text",
        "The record has two different system texts.",
        "Keep one, as the first turn or under the key system.",
    ),
    (
        "loss_flag",
        "loss, train or weight holds another value than 0, 1, true or false, or would have a question supervised.",
        "Write 0 or 1 on the assistant's turns; parts of a turn's weight are not supported.",
    ),
    ("no_turns", "No turn is the user's.", "Add the question, or leave the record out."),
    (
        "unknown_role",
        "A turn is by somebody who is neither user nor assistant, or a system text stands behind another turn.",
        "Rename the role to human or gpt; a system text stands first.",
    ),
    ("role_order", "Two answers follow each other.", "Join the answers or put the question between them."),
    ("no_answer", "The last question has no answer.", "Add the answer or drop the question."),
    ("empty_answer", "An answer is blank: nothing can be learned from it.", "Add the answer or leave the record out."),
    ("empty_question", "A question is blank and has no image.", "Add the question or leave the record out."),
    (
        "image_count",
        "The text has more or fewer <image> than the record has images.",
        "Write one <image> for each image, in the user's turns.",
    ),
    ("placeholder_in_answer", "<image> stands in an answer.", "Take it out of the answer: the model writes no image."),
    (
        "not_plain",
        "Stage 1 takes one image and one caption; this record has another shape.",
        "Train it in stage 2 (stage=instruct), or give stage 1 captions.",
    ),
    (
        "nothing_supervised",
        "No token of the record carries a loss: each answer is marked as not to be trained on, or none fits.",
        "Mark an answer to be trained on, and see that it fits into train.max_length.",
    ),
)
_TEXT_NOTES = _notes(
    "records",
    (
        "too_long",
        "Longer than train.max_length even after cutting at a turn: training drops it and counts it.",
        "Raise train.max_length, or leave it at that.",
    ),
    (
        "cut",
        "Longer than train.max_length: training cuts it behind the last question-answer pair that fits.",
        "Raise train.max_length, or leave it at that.",
    ),
    (
        "end_token",
        "The text spells the model's end-of-sequence token: mostly another program's leftover. It is trained as text.",
        "Take it out of the text, unless the text is about the token.",
    ),
    (
        "special_token",
        "The text spells a special token of the model, which is trained as text.",
        "Harmless in small numbers; HTML's <s> looks the same.",
    ),
    (
        "leftover_placeholder",
        "The text holds what may be another program's mark for an image, such as <picture>, and speaks of HTML.",
        "Rewrite it as <image> where an image belongs, else take it out.",
    ),
    (
        "replacement_character",
        "The text holds U+FFFD: characters were lost when it was read in a wrong encoding.",
        "Read the original in its own encoding.",
    ),
    (
        "mojibake",
        "The text looks like UTF-8 that was read as Latin-1 (Ã© for é).",
        "Encode it as cp1252 and decode it as UTF-8.",
    ),
    ("control_character", "The text holds control characters.", "Take them out; a NUL often marks binary data."),
    ("echo", "An answer repeats its question.", "Look at some: a copying task is fine, a shifted column is not."),
    ("refusal", "An answer refuses, as a language model behind an API does.", "Leave such records out by hand."),
)
_IMAGES = _faults(
    ("image_missing", "The image is not there.", "Fetch it; see the known repairs of published sets."),
    (
        "image_outside",
        "The path leads out of the image folder: by .., as an absolute path, or as a link.",
        "Copy the image into the folder and give its path from there.",
    ),
    ("image_address", "The image is an address; training fetches nothing.", "Fetch the image and give its path."),
    ("image_empty", "The image file has no content.", "Fetch it again; a full disk or a stopped copy leaves these."),
    (
        "image_not_image",
        "The file is no image at all: a web page, a pointer of Git LFS, or other data.",
        "Do what its line says: each is named for what it is.",
    ),
    (
        "image_other_format",
        "The file holds its picture in a form that is not read: HEIC, DICOM, PDF, SVG, an archive, a video.",
        "Do what its line says: each is named for what it is.",
    ),
    ("image_unreadable", "The image is cut short or damaged.", "Fetch it again."),
    (
        "image_too_large",
        "A decompression bomb, or more pixels than are opened: 89 million and 32,768 a side; half of that in WebP and "
        "AVIF, a third in JPEG 2000 and 16-bit colours.",
        "Save the image smaller; the model sees 336 pixels a side.",
    ),
)
_IMAGE_NOTES = _notes(
    "images",
    (
        "image_extension",
        "The name says another kind of image than the content is; it opens, since the content decides.",
        "Nothing to do here; other programs may stumble.",
    ),
    (
        "image_by_stem",
        "The file has another suffix than the record writes, and stands for it.",
        "Nothing to do here; other programs need the files renamed.",
    ),
    (
        "image_sliver",
        "One side is more than fifty times the other: little is left of it at the model's size.",
        "Cut it into pieces, or leave it out.",
    ),
    (
        "image_orientation",
        "The camera was held another way: the file says how to turn the picture upright, which data.exif=apply does.",
        "Nothing to do; data.exif=ignore leaves such pictures as they lie, as LLaVA does.",
    ),
    (
        "image_transparent",
        "Part of the picture is transparent: data.alpha says what shows through.",
        "Nothing to do, but for light drawings: data.alpha=black shows those.",
    ),
    (
        "image_nearly_black",
        "More than 8 bits a channel, of which the values use few: the picture comes out nearly black.",
        "Give the source the range of its values: value_range: [low, high], such as [0, 4095] or a CT window.",
    ),
    ("image_blank", "Every pixel has the same colour.", "Look at it: a picture of transparency comes out black."),
    ("image_tiny", "A side is shorter than eight pixels: often a tracking pixel.", "Fetch the picture itself."),
    (
        "same_image",
        "The same file stands under several paths.",
        "Nothing to do; held-out splits by path would tell them apart.",
    ),
    (
        "same_pixels",
        "Another file decodes to the same pixels.",
        "Nothing to do; it is the same picture saved another way.",
    ),
)
_REPEATS = [
    *_listed(
        (
            "leak",
            "Image and question both stand in an evaluation set: its score would be worth nothing.",
            "Train with the list, which leaves the record out.",
        ),
        (
            "duplicate",
            "The same images and the same text as a record before it in the source; the first is kept.",
            "Train with the list, which leaves the copies out. To train on a source twice, use repeats.",
        ),
    ),
    *_notes(
        "records",
        (
            "meant_duplicate",
            "The same images and text as a record before it, in a source that repeats records on purpose.",
            "Nothing to do: the copies are the source's own ratios, and stay.",
        ),
        (
            "duplicate_across",
            "The same images and text as a record of a source before it in the mixture.",
            "Take one of the sources out, or leave it: which of the two should keep it is yours to say.",
        ),
        (
            "leak_image",
            "The image stands in an evaluation set, with other questions.",
            "Fine where the sets share images by design (COCO); else leave the source out of that comparison.",
        ),
        ("same_text", "The same text as another record, with another image.", "Normal for short questions."),
        ("image_reused", "The same images as another record, with other text.", "Normal for questions about images."),
        ("repeated_id", "The id is that of another record too.", "Normal in published data; nothing depends on it."),
    ),
]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {kind.name: kind for kind in (*_SOURCES, *_TEXT, *_IMAGES, *_REPEATS, *_TEXT_NOTES, *_IMAGE_NOTES)}
)
"""All kinds by name, in the order in which they are shown."""


def is_fault(name: str) -> bool:
    """Whether training leaves records of this kind out by itself."""
    return KINDS[name].severity == "fault"


def is_listed(name: str) -> bool:
    """Whether records of this kind go on the quarantine list: those with a fault, and what only the list leaves out."""
    return KINDS[name].severity != "note"
