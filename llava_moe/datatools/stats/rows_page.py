"""``preview.html``: packed rows as one self-contained page, every token with its id, label and position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_moe.data.encode import IGNORED
from llava_moe.datatools.stats.page import render
from llava_moe.datatools.stats.pictures import PAGE_PIXELS, data_address
from llava_moe.datatools.stats.rows import Row, Segment
from llava_moe.datatools.stats.rows_terminal import (
    hole_line,
    row_title,
    segment_facts,
    segment_title,
    shown,
    tokens_line,
)
from llava_moe.datatools.stats.token_pieces import Piece, Token
from llava_moe.pages.domain_colors import colors_of
from llava_moe.text.escape_control import visible

_KINDS = {"supervised": "t", "image": "i", "prompt": "p"}


@dataclass(frozen=True)
class StageRows:
    """A stage's title, its domains and the rows to show of it."""

    title: str
    domains: tuple[str, ...]
    rows: tuple[Row, ...]


def rows_page(title: str, words: str, stages: Sequence[StageRows], next_commands: Sequence[str]) -> str:
    """The page; ``words`` are those of ``train``."""
    return render(
        "preview.html.j2",
        title=title,
        words=words,
        colors=colors_of([domain for stage in stages for domain in stage.domains]),
        stages=[{"title": stage.title, "rows": [_row(row) for row in stage.rows]} for stage in stages],
        next_commands=next_commands,
    )


def _row(row: Row) -> dict[str, Any]:
    tokens = row.tokens
    segments = [_segment(segment) for segment in row.segments]
    total = ("row", tokens.image, tokens.prompt, tokens.supervised, tokens.idle, tokens.all)
    return {
        "title": row_title(row),
        "line": tokens_line(tokens, row.room),
        "free": max(0, row.room - tokens.all),
        "segments": segments,
        "account": [*(_account(segment) for segment in row.segments), total],
    }


def _account(segment: Segment) -> tuple[str, int, int, int, int, int]:
    name = segment_title(segment)
    if segment.kind != "sample":
        return name, 0, 0, 0, segment.num_tokens, segment.num_tokens
    image, prompt, supervised = (segment.num_tokens_of(kind) for kind in ("image", "prompt", "supervised"))
    return name, image, prompt, supervised, 0, segment.num_tokens


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "title": segment_title(segment),
        "facts": segment_facts(segment),
        "key": segment.key,
        "domain": segment.domain,
        "is_idle": segment.kind != "sample",
        "num_tokens": segment.num_tokens,
        "hole": hole_line(segment) if segment.kind == "hole" else "",
        "pictures": [
            {"address": data_address(pixels), "side": pixels.shape[0], "is_large": pixels.shape[0] > PAGE_PIXELS // 2}
            for pixels in segment.pixels
        ],
        "pieces": [
            {"kind": _KINDS[piece.kind], "text": _text(piece), "hover": _hover(piece)} for piece in segment.pieces
        ],
    }


def _piece(piece: Piece) -> dict[str, str]:
    return {"kind": _KINDS[piece.kind], "text": _text(piece), "hover": _hover(piece)}


def _text(piece: Piece) -> str:
    if piece.image is not None:
        return f"image {piece.image + 1} · {len(piece.tokens)}"
    return shown(piece) or "·"


def _hover(piece: Piece) -> str:
    if piece.kind == "image":
        first, last = piece.tokens[0], piece.tokens[-1]
        return f"token {first.id}, {len(piece.tokens)} times, positions {first.position} to {last.position}, no label"
    return "\n".join(_describe(token) for token in piece.tokens)


def _describe(token: Token) -> str:
    label = "no label" if token.label == IGNORED else f"label {token.label}"
    return f"token {token.id} {visible(token.name)}, position {token.position}, {label}"
