"""Packed rows in the terminal: supervised text coloured, or between marks where there are no colours."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from llava_moe.datatools.stats.pictures import half_blocks
from llava_moe.datatools.stats.rows import Row, RowTokens, Segment
from llava_moe.datatools.stats.token_pieces import Piece
from llava_moe.text.escape_control import visible

TAUGHT = Style(color="green", bold=True)
IMAGE = Style(color="yellow")
MARKS = ("«", "»")
PICTURE_CELLS = 16
_WIDE = 64


def print_legend(console: Console) -> None:
    """Say what the colours, or the marks, mean."""
    taught = _taught("supervised: the model learns to write this", has_colors(console))
    console.print(Text.assemble(taught, "  prompt: read only  ", ("[image 1: n tokens]", IMAGE), "  ↵ line break"))


def has_colors(console: Console) -> bool:
    """Whether colours reach the reader."""
    return console.is_terminal and console.color_system is not None and not console.no_color


def print_row(row: Row, console: Console) -> None:
    """Print a row: its account, then each segment under a line that says what it is."""
    console.print()
    console.print(Text(row_title(row), style="bold"))
    console.print(Text(tokens_line(row.tokens, row.room)))
    for segment in row.segments:
        console.print()
        console.print(_heading(segment))
        text = segment_text(segment, has_colors(console))
        if not segment.pixels or not has_colors(console):
            console.print(text)
        elif len(segment.pixels) == 1 and console.width >= _WIDE:
            console.print(_beside(half_blocks(segment.pixels[0], PICTURE_CELLS), text))
        else:
            _print_pictures(segment, console)
            console.print(text)


def row_title(row: Row) -> str:
    """Which row it is, in words."""
    return f"epoch {row.epoch}, step {row.step}, row {row.number + 1} of {row.num_rows}"


def tokens_line(tokens: RowTokens, room: int) -> str:
    """The row's account in words."""
    idle = f", {tokens.idle:,} idle" if tokens.idle else ""
    return (
        f"{tokens.all:,} of {room:,} tokens: {tokens.image:,} image, {tokens.prompt:,} prompt, "
        f"{tokens.supervised:,} supervised{idle}"
    )


def segment_title(segment: Segment) -> str:
    """What a segment is, in words."""
    if segment.kind == "null":
        return f"null segment: an image that teaches nothing, {segment.num_tokens:,} tokens"
    source = "" if segment.source == segment.domain else f", {visible(segment.source)}"
    return f"{visible(segment.domain)}{source}: {visible(segment.id)}"


def segment_facts(segment: Segment) -> str:
    """Where a segment stands, in words."""
    facts = [] if segment.sample < 0 else [f"sample {segment.sample}", f"record {segment.number:,}"]
    last = segment.num_tokens - 1
    facts.append(f"positions 0 to {last:,}, tokens {segment.start:,} to {segment.start + last:,} of the row")
    return ", ".join(facts)


def hole_line(segment: Segment) -> str:
    """Why a segment is a hole."""
    fault = segment.fault
    reason = "" if fault is None else f": {visible(fault.reason)}, {visible(fault.detail)}"
    return f"hole of {segment.num_tokens:,} padding tokens, nothing is learned{reason}"


def segment_text(segment: Segment, is_colored: bool) -> Text:
    """A segment's tokens as one text; nothing in the data's own text is obeyed as mark-up or control."""
    if segment.kind == "hole":
        return Text(hole_line(segment), style="red")
    text = Text()
    taught: list[str] = []
    for place, piece in enumerate(segment.pieces):
        words = shown(piece)
        if place == len(segment.pieces) - 1:
            words = words.removesuffix("\n")
        if piece.kind == "supervised":
            taught.append(words)
            continue
        _flush(text, taught, is_colored)
        if piece.kind == "image":
            assert piece.image is not None
            text.append(f"[image {piece.image + 1}: {len(piece.tokens)} tokens]", IMAGE)
        else:
            text.append(words)
    _flush(text, taught, is_colored)
    return text


def shown(piece: Piece) -> str:
    """A piece's text with what is invisible written out, a line break as ``↵`` and the break itself."""
    return visible(piece.text, keep="\n").replace("\n", "↵\n")


def _flush(text: Text, taught: list[str], is_colored: bool) -> None:
    if taught:
        text.append_text(_taught("".join(taught), is_colored))
        taught.clear()


def _taught(words: str, is_colored: bool) -> Text:
    return Text(words, TAUGHT) if is_colored else Text(f"{MARKS[0]}{words}{MARKS[1]}")


def _heading(segment: Segment) -> Text:
    return Text.assemble(("▌ ", "cyan"), (segment_title(segment), "bold cyan"), "\n", (segment_facts(segment), "dim"))


def _beside(picture: Text, text: Text) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(min_width=PICTURE_CELLS, max_width=PICTURE_CELLS)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_row(picture, text)
    return grid


def _print_pictures(segment: Segment, console: Console) -> None:
    a_line = max(1, (console.width + 1) // (PICTURE_CELLS + 1))
    pictures: Sequence[Text] = [half_blocks(pixels, min(PICTURE_CELLS, console.width)) for pixels in segment.pixels]
    for start in range(0, len(pictures), a_line):
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(*pictures[start : start + a_line])
        console.print(grid)
