"""Rows shown are rows trained: the batch's own tokens, labels and pixels, with the record of each segment."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from llava_moe.data.source import ArrowRecords
from llava_moe.data.stream import StepStream
from llava_moe.datatools.stats.rows import Row, first_rows
from llava_moe.datatools.stats.rows_terminal import hole_line, print_legend, print_row, segment_text
from llava_moe.text.escape_control import visible

MakeStream = Callable[..., StepStream]


def printed(row: Row, width: int = 80, colors: bool = False, **words: Any) -> str:
    file = io.StringIO()
    color: dict[str, Any] = {"color_system": "truecolor"} if colors else {}
    console = Console(file=file, width=width, force_terminal=colors, highlight=False, markup=False, **color, **words)
    print_legend(console)
    print_row(row, console)
    return file.getvalue()


@pytest.mark.parametrize("world", [1, 2])
def test_rows_hold_the_batches_tokens_labels_positions_and_pixels(make_stream: MakeStream, world: int) -> None:
    stream = make_stream(world=world, null_image=np.zeros((3, 8, 8), dtype=np.uint8))
    rows = list(first_rows(stream, 1, 2, 6))
    batches = [(step, batch) for step in stream.iterate(1, 2) for batch in step.batches][:6]
    assert [(row.step, row.epoch) for row in rows] == [(step.index, 1) for step, _ in batches]
    by_key = {
        index.keys[entry].tobytes().hex(): (source, int(row))
        for source, index in zip(stream.mixture.sources, stream.indexes, strict=True)
        for entry, row in enumerate(index.rows)
    }
    for row, (_, batch) in zip(rows, batches, strict=True):
        tokens = [token for segment in row.segments for piece in segment.pieces for token in piece.tokens]
        assert [token.id for token in tokens] == batch.input_ids[0].tolist()
        assert [token.label for token in tokens] == batch.labels[0].tolist()
        assert [token.position for token in tokens] == batch.position_ids[0].tolist()
        pixels = [image for segment in row.segments for image in segment.pixels]
        assert np.array_equal(np.stack(pixels), batch.pixel_values.permute(0, 2, 3, 1).numpy())
        assert row.tokens.all == batch.num_tokens
        assert row.tokens.supervised == batch.supervised_tokens
        for segment, key, sample in zip(row.segments, batch.keys, batch.sample_positions, strict=True):
            assert (segment.key, segment.sample) == (key, sample)
            if segment.kind == "sample":
                source, number = by_key[key]
                assert (segment.source, segment.domain) == (source.name, source.domain)
                entry = stream.records[stream.mixture.sources.index(source)].read(number, number + 1)[0]
                # Twins have one key; each is shown under its own id and number.
                assert segment.id == entry.id and (segment.number == number or segment.id == "cut")


def test_rows_go_on_into_the_next_step_and_end_with_the_epoch(make_stream: MakeStream) -> None:
    stream = make_stream()
    all_rows = sum(len(step.batches) for step in stream.iterate(0))
    rows = list(first_rows(stream, 0, 0, 1000))
    assert len(rows) == all_rows
    assert {row.step for row in rows} == set(range(stream.steps_in_epoch()))
    assert list(first_rows(stream, 0, 0, 3))[-1].number == rows[2].number


def test_a_record_that_fails_to_decode_is_a_hole_with_its_reason(make_stream: MakeStream, tmp_path: Path) -> None:
    stream = make_stream(batch=60)
    gone = replace(stream.mixture.sources[2], images=str(tmp_path / "nowhere"))
    mixture = replace(stream.mixture, sources=(*stream.mixture.sources[:2], gone))
    last = stream.records[2]
    assert isinstance(last, ArrowRecords)
    records = (*stream.records[:2], replace(last, source=gone))
    stream = replace(stream, mixture=mixture, records=records)
    rows = list(first_rows(stream, 0, 0, 50))
    holes = [segment for row in rows for segment in row.segments if segment.kind == "hole"]
    assert len(holes) == 11 and all(hole.source == "scans" and not hole.pixels for hole in holes)
    assert all(hole.fault is not None and hole.fault.reason == "image_missing" for hole in holes)
    assert "image_missing, no file" in hole_line(holes[0])
    row = next(row for row in rows if any(segment.kind == "hole" for segment in row.segments))
    assert row.tokens.idle == sum(hole.num_tokens for hole in row.segments if hole.kind == "hole") > 0
    assert "<pad>" not in printed(row) and "hole of" in printed(row)


def test_null_segments_and_null_rows_are_named(make_stream: MakeStream) -> None:
    stream = make_stream(batch=1, world=2, rank=1, null_image=np.zeros((3, 8, 8), dtype=np.uint8))
    [row] = first_rows(stream, 0, 0, 1)
    assert [segment.kind for segment in row.segments] == ["null"]
    assert row.tokens.idle == 4 == row.tokens.all
    assert "null segment: an image that teaches nothing, 4 tokens" in printed(row)


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_line_is_wider_than_the_terminal(make_stream: MakeStream, width: int) -> None:
    for row in first_rows(make_stream(), 0, 0, 4):
        assert max(map(len, printed(row, width).split("\n"))) <= width


def test_supervised_text_is_colored_or_else_stands_between_marks(make_stream: MakeStream) -> None:
    [row] = first_rows(make_stream(), 0, 0, 1)
    plain, colored = printed(row), printed(row, colors=True)
    assert "\x1b" not in plain and plain.count("«") == plain.count("»") > 1
    assert "\x1b[1;32m" in colored and "▀" in colored and "«" not in colored
    without = printed(row, colors=True, no_color=True)
    assert "▀" not in without and "«" in without and "[1;32m" not in without
    segment = next(segment for segment in row.segments if segment.kind == "sample" and segment.pixels)
    assert "[image 1: 4 tokens]" in segment_text(segment, False).plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m\x07", "\\x1b[31m\\x07"),
        ("a\r\x00b", "a\\x0d\\x00b"),
        ("\u202eevil\u2069", "\\u202eevil\\u2069"),
        ("line\u2028break\x85", "line\\u2028break\\x85"),
        ("👩‍👩‍👧 مرحبا [bold]", "👩‍👩‍👧 مرحبا [bold]"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown
