"""The comparison's page: parsed, self-contained, everything from data escaped."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from llava_moe.errors import UserError
from llava_moe.eval.results.bootstrap import Interval
from llava_moe.eval.results.comparison import Cell, ComparedBenchmark, ComparedRow, Comparison
from llava_moe.eval.results.disagreements import Disagreement
from llava_moe.report.comparison import draw_interval, write_comparison_page
from llava_moe.report.pictures import picture_of
from tests.browser import document, needs_browser
from tests.report.test_report import Page

NASTY = '<script>alert("x")</script>&\'</td>'


def png(color: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 30), color).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    (tmp_path / "on_disk.png").write_bytes(png((0, 0, 255)))
    cells = (Cell(0.5, Interval(0.4, 0.6)), Cell(0.75, Interval(0.7, 0.8), 0.25, Interval(0.1, 0.3)), Cell(None))
    rows = (
        ComparedRow("general", "exact_match", 1200, cells, {"one answer a domain": 0.25}, True),
        ComparedRow("all", "exact_match", 1200, cells, {}, True),
        ComparedRow("all", "other_image", 1200, cells, {}, False),
    )
    lost = Disagreement(
        question_id=NASTY,
        domain="general",
        kind=NASTY,
        prompt=f"What is it? {NASTY}",
        references=(NASTY, "b", "c", "d", "e", "f"),
        predictions=("yes", NASTY, ""),
        scores=(1.0, 0.0, 0.3),
        images=(png(), str(tmp_path / "on_disk.png"), str(tmp_path / "gone.png")),
    )
    other = replace(lost, question_id="q2", prompt="", images=(str(tmp_path / "gone.png"),))
    compared = ComparedBenchmark("made", 1200, 300, None, rows, notes=(NASTY,), disagreements=(lost, other))
    return Comparison((NASTY, "two", "three"), ("/a", "/b", "/c"), (compared,), 10_000, 0, notes=(NASTY,))


def test_the_page_is_whole_shows_every_number_and_points_nowhere_outside(
    tmp_path: Path, comparison: Comparison
) -> None:
    path = write_comparison_page(tmp_path, comparison, [f"llava-moe eval runs=[{NASTY}]"])
    text = path.read_text()
    page = Page(text)
    assert not page.open and "script" not in page.tags and text.startswith("<!doctype html>")
    assert page.addresses and all(address.startswith("data:image/webp;base64,") for address in page.addresses)
    assert not re.findall(r"url\(|@import|https?://", " ".join(page.styles))
    assert "color-scheme" in text and "prefers-color-scheme: dark" in text
    for part in ("50.0", "75.0", "+25.0 [+10.0, +30.0] *", "1,200", "one answer a domain", "(nothing)", "0.30", "two"):
        assert part in page.text
    assert "2 of the 2 differences" in page.text
    assert page.text.count(NASTY) >= 6 and "<script>" not in text


MEASURE = """<script>
const all = [...document.querySelectorAll(".scroll")], page = document.documentElement
const widths = [...all.map(one => one.scrollWidth), ...all.map(one => one.clientWidth)]
document.title = [page.scrollWidth, innerWidth, ...widths].join(" ")
</script>"""


@needs_browser
def test_a_wide_table_takes_the_windows_width_and_is_never_cut_off(tmp_path: Path, comparison: Comparison) -> None:
    runs = tuple(f"mix_general_doc_med-llava_mole-{number}" for number in range(8))
    [compared] = comparison.benchmarks
    rows = tuple(replace(row, cells=tuple(row.cells[min(n, 1)] for n in range(8))) for row in compared.rows)
    wide = replace(
        comparison, runs=runs, folders=runs, benchmarks=(replace(compared, rows=rows, disagreements=(), notes=()),)
    )
    path = write_comparison_page(tmp_path, wide)
    opened = path.read_text().replace("<details>", "<details open>").replace("http-equiv", "name")
    path.write_text(opened.replace("</main>", f"</main>{MEASURE}"))
    for width in (600, 1000, 1700):
        title = re.findall(r"<title>([\d ]+)</title>", document(path, width))[0]
        page, window, main, _, main_room, other_room = map(int, title.split())
        assert page <= window and main_room <= window and other_room <= window
        assert main <= main_room or width < 1000, "eight runs fit"


def test_pictures_come_from_bytes_and_files_and_are_left_out_where_they_are_gone(
    tmp_path: Path, comparison: Comparison
) -> None:
    page = Page(write_comparison_page(tmp_path, comparison).read_text())
    assert len(page.addresses) == 2
    assert picture_of(str(tmp_path / "gone.png")) == "" and picture_of(b"nonsense") == ""
    assert "(the question is not at hand)" in page.text


def test_an_interval_is_drawn_between_its_ends() -> None:
    drawn = draw_interval(0.5, Interval(0.25, 0.75), 0.0, 1.0, "#3987e5", [0.0])
    numbers = [float(number) for number in re.findall(r'x[12]="([\d.]+)"', drawn)]
    center = float(re.findall(r'cx="([\d.]+)"', drawn)[0])
    mark, _, low, high = numbers
    assert mark < low < center < high and center - low == pytest.approx(high - center, abs=0.11)
    assert 'aria-label="50.0, interval 25.0 to 75.0"' in drawn
    assert draw_interval(None, None, 0.0, 1.0, "#000") == ""
    assert "circle" in draw_interval(0.5, None, 0.5, 0.5, "#000")


def test_a_benchmark_without_scores_says_so(tmp_path: Path, comparison: Comparison) -> None:
    bare = replace(comparison, benchmarks=(replace(comparison.benchmarks[0], rows=(), disagreements=()),))
    page = Page(write_comparison_page(tmp_path, bare).read_text())
    assert not page.open and "evaluation server" in page.text


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, comparison: Comparison) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_comparison_page(tmp_path / "file", comparison)
