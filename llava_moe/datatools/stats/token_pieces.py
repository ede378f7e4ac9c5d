"""A segment's tokens as pieces of text: what each token reads as, and what is learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from llava_moe.data.encode import IGNORED


@dataclass(frozen=True)
class Token:
    """One token: its id, its own name in the vocabulary, its place in the segment and its label."""

    id: int
    name: str
    position: int
    label: int


@dataclass(frozen=True)
class Piece:
    """Tokens that read as one piece of text, or the places of one image.

    Attributes:
        kind: ``supervised``, ``prompt`` or ``image``.
        text: what the tokens read as; empty for an image.
        image: the image's number in its segment, from 0; None for text.
    """

    kind: Literal["supervised", "prompt", "image"]
    text: str
    tokens: tuple[Token, ...]
    image: int | None = None


def read_pieces(
    tokenizer: PreTrainedTokenizerBase,
    input_ids: Sequence[int],
    labels: Sequence[int],
    image_token_id: int,
    num_image_tokens: int | Sequence[int],
) -> tuple[Piece, ...]:
    """The pieces of one segment, in order, every token in exactly one of them.

    A token is a piece of its own unless it holds part of a character's bytes: those that make up a character, an
    emoji say, are one piece. The texts joined are the text that the tokenizer decodes.

    Args:
        num_image_tokens: places of every image, or of each of them in turn.
    """
    names = tokenizer.convert_ids_to_tokens(list(input_ids))
    tokens = [
        Token(int(id_), str(name), position, int(label))
        for position, (id_, name, label) in enumerate(zip(input_ids, names, labels, strict=True))
    ]
    pieces: list[Piece] = []
    at, image = 0, 0
    while at < len(tokens):
        if tokens[at].id == image_token_id:
            places = num_image_tokens if isinstance(num_image_tokens, int) else num_image_tokens[image]
            end = min(at + places, len(tokens))
            pieces.append(Piece("image", "", tuple(tokens[at:end]), image))
            image += 1
        else:
            end = _end_of_piece(tokenizer, tokens, at)
            text = _decode(tokenizer, tokens[at:end])
            kind: Literal["supervised", "prompt"] = "prompt" if tokens[at].label == IGNORED else "supervised"
            pieces.append(Piece(kind, text, tuple(tokens[at:end])))
        at = end
    return tuple(pieces)


def _end_of_piece(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Token], start: int) -> int:
    """Where the piece that begins at ``start`` ends: what it reads as and what the rest reads as make up the whole."""
    if not _is_unfinished(tokenizer, tokens[start]):
        return start + 1
    stop = start + 1
    while stop < len(tokens) and _is_unfinished(tokenizer, tokens[stop]):
        stop += 1
    # Behind a token that reads as something by itself no character is open: what comes later changes nothing here.
    stop = min(stop + 1, len(tokens))
    whole = _decode(tokenizer, tokens[start:stop])
    for end in range(start + 1, stop):
        if _is_taught(tokens[end]) != _is_taught(tokens[start]):
            return end
        if _decode(tokenizer, tokens[start:end]) + _decode(tokenizer, tokens[end:stop]) == whole:
            return end
    return stop


def _is_unfinished(tokenizer: PreTrainedTokenizerBase, token: Token) -> bool:
    """Whether a token holds part of a character's bytes, which alone decode to U+FFFD."""
    return "\ufffd" in _decode(tokenizer, [token])


def _is_taught(token: Token) -> bool:
    return token.label != IGNORED


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[Token]) -> str:
    """What tokens read as behind others: a decoder strips the blank of a text's first token, so one stands before."""
    backend = tokenizer.backend_tokenizer
    special = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    anchor = next(int(id_) for id_ in (*special, tokens[0].id) if id_ is not None)
    ids = [anchor, *(token.id for token in tokens)]
    before = backend.decode(ids[:1], skip_special_tokens=False)
    return str(backend.decode(ids, skip_special_tokens=False)).removeprefix(before)
