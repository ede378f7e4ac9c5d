"""The two pages: they stand alone, show the data's own text as text, and a browser draws them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from llava_moe.data.mixture import Mixture
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.data.stream import StepStream
from llava_moe.datatools.stats.groups import Opened
from llava_moe.datatools.stats.packing_stats import PackingRequest
from llava_moe.datatools.stats.pictures import data_address, half_blocks
from llava_moe.datatools.stats.rows import first_rows
from llava_moe.datatools.stats.rows_page import StageRows, rows_page
from llava_moe.datatools.stats.rows_terminal import print_row
from llava_moe.datatools.stats.stage import StageAccount, Training, account_stage
from llava_moe.datatools.stats.stats_page import stats_json, stats_page
from llava_moe.datatools.stats.tables import count
from llava_moe.datatools.stats.terminal import print_account
from llava_moe.pages.domain_colors import colors_of
from tests.browser import draw, needs_browser

MakeStream = Callable[..., StepStream]
NASTY = "[bold]no[/bold] <script>alert('x')</script> </div>&amp; مرحبا 👩‍👩‍👧 \x1b[31mred \u202eback"


@pytest.fixture
def nasty_stream(make_stream: MakeStream, tmp_path: Path) -> StepStream:
    """A stream whose names, ids and texts hold mark-up, escapes and scripts of other directions."""
    stream = make_stream()
    record = {
        "id": "<b>id</b>\x1b[2J",
        "conversations": [{"from": "human", "value": NASTY}, {"from": "gpt", "value": NASTY}],
    }
    (tmp_path / "nasty.json").write_text(json.dumps([record] * 3))
    source = Source("<i>[red]\x1b[1m", "do<main>", str(tmp_path / "nasty.json"))
    records = open_records(source, tmp_path)
    encoder = replace(stream.encoder, max_length=1500)
    index = index_source(source, records, encoder, tmp_path)
    return replace(
        stream,
        mixture=Mixture((source,)),
        records=(records,),
        indexes=(index,),
        encoder=encoder,
        tokens_per_micro_batch=1500,
    )


def account_of(stream: StepStream, title: str = "stage") -> StageAccount:
    opened = Opened(stream.mixture, stream.indexes)
    seats = PackingRequest(stream.global_batch_size, stream.tokens_per_micro_batch, 1, None)
    return account_stage(title, opened, seats, Training(2, None), 4, stream.encoder.max_length, "cut")


def page_of(stream: StepStream, num_rows: int = 4) -> str:
    rows = tuple(first_rows(stream, 0, 0, num_rows))
    return rows_page(
        "a <title>", "data=mine path='a b'", [StageRows("st", stream.mixture.domains, rows)], ["next <one>"]
    )


def test_the_stats_page_stands_alone_and_shows_every_table(
    make_stream: MakeStream, read_page: Callable[..., Any]
) -> None:
    account = account_of(make_stream({"captions": {"repeats": 1.7}}), "demo 1-<pretrain>")
    page = read_page(stats_page("a <title>", "exp=x", [account, account]))
    page.check_it_stands_alone()
    titles = ("Records", "An epoch", "Shares of an epoch", "Tokens of an epoch", "Lengths", "The training", "formula")
    for words in ("a <title>", "demo 1-<pretrain>", "llava-moe train exp=x", "too_long", "1.7 x 29", *titles):
        assert words in page.text, words
    bars = [attributes for name, attributes in page.tags if name == "i" and "%" in attributes.get("title", "")]
    assert len(bars) == 2 * 4 * 2
    parts = [float(attributes["style"].rpartition("--part: ")[2]) for attributes in bars[:2]]
    assert sum(parts) == pytest.approx(1, abs=1e-5)


def test_the_numbers_are_exact_in_the_json(make_stream: MakeStream) -> None:
    account = account_of(make_stream())
    content = json.loads(stats_json("exp=x", [account]))
    assert content["train"] == "exp=x"
    [stage] = content["stages"]
    groups = {(group["kind"], group["name"]): group for group in stage["groups"]}
    assert groups["all", "all"]["epoch"]["tally"]["tokens"] == account.all.epoch.tally.tokens
    general = account.of("domain")[0].epoch.tally
    assert groups["domain", "general"]["epoch"]["tally"] == asdict(general) | {"prompt_tokens": general.prompt_tokens}
    assert stage["seating"]["num_seated"] == stage["steps_per_epoch"] == 8


@pytest.mark.parametrize("width", [40, 60, 80, 160])
def test_the_tables_fit_the_terminal_and_lose_no_number(make_stream: MakeStream, width: int) -> None:
    account = account_of(make_stream({"captions": {"repeats": 1.7}, "scans": {"cap": 9}}))
    file = io.StringIO()
    print_account(account, Console(file=file, width=width, highlight=False, markup=False))
    text = file.getvalue()
    assert max(len(line.rstrip()) for line in text.split("\n")) <= width
    assert "…" not in text
    for tally in (group.epoch.tally for group in account.groups):
        for number in (tally.tokens, tally.image_tokens, tally.prompt_tokens, tally.supervised_tokens):
            assert f"{number:,}" in text


def test_a_source_that_gives_nothing_is_shown_with_nothing(
    make_stream: MakeStream, read_page: Callable[..., Any]
) -> None:
    account = account_of(make_stream({"scans": {"weight": 0.0}}, epoch_samples=20))
    medical = account.of("domain")[1]
    assert (medical.epoch.tally.samples, medical.lengths, medical.epoch.of_loss, medical.seen) == (0, None, 0.0, 0)
    assert medical.records.usable == 11 and [one.given for one in account.counts] == [10, 10, 0]
    page = read_page(stats_page("x", "", [account]))
    assert "medical: scans" in page.text and page.text.count("lengths of an epoch") == 1


def test_great_numbers_are_shortened() -> None:
    numbers = (99_999_999, 123_456_789, 1_234_567_890)
    assert [count(number) for number in numbers] == ["99,999,999", "123.5 M", "1.235 G"]


def test_the_preview_page_stands_alone_and_shows_every_token_and_picture(
    make_stream: MakeStream, read_page: Callable[..., Any]
) -> None:
    stream = make_stream(world=2, null_image=np.zeros((3, 8, 8), dtype=np.uint8))
    rows = tuple(first_rows(stream, 0, 0, 4))
    page = read_page(page_of(stream))
    page.check_it_stands_alone()
    pieces = [piece for row in rows for segment in row.segments for piece in segment.pieces]
    shown = [attributes for name, attributes in page.tags if name == "s"]
    kinds = {"supervised": "t", "image": "i", "prompt": "p"}
    assert [one["class"] for one in shown] == [kinds[piece.kind] for piece in pieces]
    for piece, one in zip(pieces, shown, strict=True):
        first = piece.tokens[0]
        assert one["title"].startswith(f"token {first.id}")
        if piece.kind == "supervised":
            assert f"position {first.position}, label {first.label}" in one["title"]
    images = [attributes["src"] for name, attributes in page.tags if name == "img"]
    pixels = [image for row in rows for segment in row.segments for image in segment.pixels]
    for address, image in zip(images, pixels, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), image)
    assert "image 1 · 4" in page.text and "next <one>" in page.text and "path='a b'" in page.text


def test_the_datas_own_text_stays_text(nasty_stream: StepStream, read_page: Callable[..., Any]) -> None:
    text = page_of(nasty_stream, 1)
    page = read_page(text)
    page.check_it_stands_alone()
    for words in ("[bold]no[/bold] <script>alert('x')</script> </div>&amp; مرحبا", "do<main>", "<b>id</b>\\x1b[2J"):
        assert words in page.text, words
    assert "\x1b" not in text and "\u202e" not in text and "\\u202eback" in page.text
    read_page(stats_page("x", "", [account_of(nasty_stream)])).check_it_stands_alone()
    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False, markup=False)
    [row] = first_rows(nasty_stream, 0, 0, 1)
    print_row(row, console)
    print_account(account_of(nasty_stream), console)
    printed = file.getvalue()
    assert "\x1b" not in printed and "\u202e" not in printed
    assert "[bold]no[/bold] <script>" in printed and "\\x1b[31mred" in printed


def test_a_picture_of_half_blocks_has_its_colors() -> None:
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8, :, 0], pixels[8:, :, 2] = 255, 255
    file = io.StringIO()
    console = Console(file=file, width=40, force_terminal=True, color_system="truecolor")
    console.print(half_blocks(pixels, 8))
    lines = file.getvalue().rstrip("\n").split("\n")
    assert len(lines) == 4
    assert "38;2;255;0;0;48;2;255;0;0" in lines[0] and "38;2;0;0;255;48;2;0;0;255" in lines[3]


def test_a_large_picture_is_made_small_and_a_small_one_kept() -> None:
    large = np.random.default_rng(0).integers(0, 255, (336, 336, 3)).astype(np.uint8)
    for pixels, side in ((large, 224), (large[:32, :32], 32)):
        with Image.open(io.BytesIO(base64.b64decode(data_address(pixels).partition(",")[2]))) as picture:
            assert picture.size == (side, side)


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_the_pages(make_stream: MakeStream, nasty_stream: StepStream, tmp_path: Path) -> None:
    stream = make_stream({"captions": {"repeats": 1.7}})
    bars = {
        tuple(bytes.fromhex(color[1:])) for color in colors_of(one.domain for one in stream.mixture.sources).values()
    }
    pages: dict[str, tuple[str, set[tuple[int, ...]]]] = {
        "stats": (stats_page("stats", "", [account_of(stream)]), bars),
        "preview": (page_of(stream), {(0xD8, 0xF2, 0xE3), (0xFB, 0xEC, 0xCB)}),
        "nasty": (page_of(nasty_stream, 1), {(0xD8, 0xF2, 0xE3)}),
    }
    for name, (text, expected) in pages.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        assert expected <= draw(tmp_path / f"{name}.html"), name
