"""What must hold of a benchmark's items before a model is asked anything: their texts, answers and images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from llava_moe.data.conversation import BadRecord, ImageRef
from llava_moe.data.images.transform import judge_image


class CheckedItem(Protocol):
    """An item of a benchmark, as :class:`~llava_moe.eval.published_benchmark.Item` has it."""

    @property
    def id(self) -> str: ...

    @property
    def images(self) -> tuple[ImageRef, ...]: ...

    @property
    def words(self) -> Mapping[str, str]: ...

    @property
    def references(self) -> tuple[str, ...]: ...

    @property
    def part(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def choices(self) -> Mapping[str, str]: ...


def misfit(item: CheckedItem, answers: Collection[str] | None, parts: Collection[str] | None) -> str | None:
    """What of an item cannot be asked or scored, as a clause; None where all can.

    Args:
        answers: the only references there can be, in lower case; None: any, or the item's choices.
        parts: the only parts there can be; None: any.
    """
    for what, text in _texts(item):
        if not isinstance(text, str):
            return f"{what} is {type(text).__name__}, not text"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"{what} holds half a surrogate pair at character {error.start}"
    for image in item.images:
        if not isinstance(image, str | bytes) or not image:
            return f"its image is {'empty' if image in ('', b'') else type(image).__name__}, not a path or bytes"
    if not item.id:
        return "its id is empty"
    if parts is not None and item.part not in parts:
        return f"its part is {item.part[:100]!r}, where there are only {', '.join(sorted(parts))}"
    for said in item.references:
        if answers is not None and said.lower() not in answers:
            return f"its answer is {said[:100]!r}, where there are only {', '.join(sorted(answers))}"
        if answers is None and item.choices and said not in item.choices:
            return f"its answer is {said[:100]!r}, which is none of its choices {', '.join(item.choices)}"
    return None


def _texts(item: CheckedItem) -> Iterator[tuple[str, object]]:
    yield "its id", item.id
    yield from item.words.items()
    yield from (("an answer", said) for said in item.references)
    yield from (("a choice", text) for text in item.choices.values())
    yield "its part", item.part
    yield "its kind", item.kind


def unreadable_image(items: Iterable[tuple[str, Sequence[ImageRef]]]) -> tuple[str, BadRecord] | None:
    """The id of the first item with an image file that its header says cannot be opened, and why.

    Each file is looked at once.
    Encoded images were made here, or are found out when they are decoded.

    Args:
        items: the id of each, and its images.
    """
    seen: set[str] = set()
    for name, images in items:
        for image in images:
            if isinstance(image, str) and image not in seen:
                seen.add(image)
                try:
                    judge_image(image)
                except BadRecord as fault:
                    return name, fault
    return None
