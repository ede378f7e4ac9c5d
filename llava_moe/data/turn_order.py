"""The order of a record's questions, drawn for each record by itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, Turn, count_placeholders

_OPENING = re.compile(rf"(?:\s*{IMAGE_PLACEHOLDER})+\s*")


def shuffle_turns(record_id: str, turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Settled turns with their pairs of question and answer in a random order; the images stay in front.

    Sets that ask several questions about a picture often keep one order of the kinds of question. A model then learns
    an answer's kind from its place and not from its question, and fails where a question is asked alone.

    The order follows from the record's id and texts alone: the same in each epoch, process and run, so that lengths
    that were measured once hold. A record whose images do not all open its first question keeps its order, since later
    turns may speak of them; so does a record of one question.
    """
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    opening = _OPENING.match(turns[0].text)
    images = opening.group() if opening else ""
    if len(pairs) < 2 or images.count(IMAGE_PLACEHOLDER) != count_placeholders(turns):
        return tuple(turns)
    question, answer = pairs[0]
    pairs[0] = Turn(question.role, question.text[len(images) :]), answer
    first, *rest = (pairs[place] for place in _order(len(pairs), [record_id, *(turn.text for turn in turns)]))
    opened = [(Turn(first[0].role, images + first[0].text), first[1]), *rest]
    return tuple(turn for pair in opened for turn in pair)


def _order(num_pairs: int, texts: Sequence[str]) -> list[int]:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    # Sorting by a hash needs no random generator, whose draws may change with Python's release.
    return sorted(
        range(num_pairs), key=lambda place: hashlib.sha256(digest.digest() + place.to_bytes(8, "little")).digest()
    )
