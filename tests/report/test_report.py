"""The report page: what it shows, that it points nowhere outside, and that a browser draws it."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from llava_moe.eval.benchmark import Answer, BenchmarkResult, Measure, Question, ScoreRow
from llava_moe.eval.results.stage_scores import BLIND, MAJORITY, OTHER, StageLine, StageScores
from llava_moe.pages.domain_colors import colors_of
from llava_moe.pages.inline_svg import STYLE
from llava_moe.report.charts import loss_chart, score_chart, step_charts
from llava_moe.report.examples import choose_examples, thumbnail
from llava_moe.report.page import duration, write_report
from llava_moe.report.run import report_run, stage_folders
from llava_moe.train.stage_log import (
    StageLog,
    account_domains,
    count_reasons,
    last_expert_shares,
    missing_steps,
    read_stage,
)
from tests.browser import draw, needs_browser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags, every address a browser might load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.styles: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")
        ]
        self.styles += [value or "" for name, value in attrs if name == "style"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def step_record(step: int, *, experts: bool) -> dict[str, Any]:
    domains = {
        "general": {"loss": 3.0 / step, "supervised_tokens": 10, "samples": 2},
        "documents": {"loss": 2.0, "supervised_tokens": 20, "samples": 1},
    }
    record: dict[str, Any] = {
        "stage": "s",
        "step": step,
        "loss": 4.0 / step,
        "load_balance_loss": 1.0,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "seconds": 0.5,
        "samples": 3,
        "tokens": 100,
        "supervised_tokens": 30,
        "tokens_per_second": 200.0,
        "peak_memory_bytes": 2**30,
        "domains": domains,
    }
    if experts:
        routed = {"share": [0.25, 0.75], "entropy": 0.5}
        record["experts"] = {"layers.0.mlp": {"general": routed, "documents": {"share": [1.0, 0.0], "entropy": 0.0}}}
    return record


def write_stage(folder: Path, steps: int = 4, *, experts: bool = False) -> Path:
    folder.mkdir(parents=True)
    records = [step_record(step, experts=experts) for step in range(1, steps + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "config.yaml").write_text("train:\n  name: a <b> & c\n")
    (folder / "environment.json").write_text(json.dumps({"python": "3.12.1", "packages": {"torch": "2.13.0"}}))
    left_out = {"source": "pictures", "domain": "general", "index": 3, "id": "x", "reason": "image_missing"}
    (folder / "quarantine.jsonl").write_text(json.dumps(left_out) + "\n")
    return folder


@pytest.fixture
def result() -> BenchmarkResult:
    def row(domain: str, kind: str | None = None) -> ScoreRow:
        measures = {
            "exact_match": Measure(0.612, 300, 0.55, 0.67),
            "other_image": Measure(0.25, 300, 0.2, 0.3),
            "majority_answer": Measure(0.333, 300, 0.28, 0.39),
            "gap": Measure(0.362, 300, 0.3, 0.42),
        }
        papers = {"docvqa_anls": Measure(0.5, 400)} if domain == "documents" and kind is None else {}
        return ScoreRow(domain, kind, None if kind is None else True, measures | papers)

    columns = ("exact_match", "other_image", "majority_answer", "gap")
    rows = (row("general"), row("documents"), row("all"), row("general", "colour"))
    return BenchmarkResult("made", "abc", columns, rows, notes=("Nothing was left out.",))


def open_page(path: Path) -> Page:
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [], "tags are left open"
    return page


def check_it_stands_alone(page: Page) -> None:
    assert all(address.startswith(("data:", "#")) for address in page.addresses), page.addresses
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    styles = " ".join(page.styles)
    assert "@import" not in styles and "url(http" not in styles and "//" not in styles
    assert len(page.ids) == len(set(page.ids)), "two parts of the page share an id"
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids)


def test_the_page_stands_alone_and_shows_every_part(tmp_path: Path, result: BenchmarkResult) -> None:
    stages = [
        read_stage(write_stage(tmp_path / "1-pretrain")),
        read_stage(write_stage(tmp_path / "2-instruct", 600, experts=True)),
    ]
    questions = [Question("q", (tiny_png(),), "What?", ("cat",), "general", "colour", True)]
    answers = {"q": Answer("q", "<b>dog</b>", ("cat",), {"exact_match": 0.0})}
    path = write_report(
        tmp_path,
        stages,
        [result],
        next_commands=["llava-moe chat run='a folder'"],
        examples=choose_examples(questions, answers),
        caveats=["The tower is in-domain."],
    )
    assert path == tmp_path / "report.html"
    page = open_page(path)
    check_it_stands_alone(page)
    for words in (
        "61.2",
        "+36.2",
        "DocVQA ANLS",
        "Nothing was left out.",
        "The tower is in-domain.",
        "✗ <b>dog</b>",
        "true: cat",
        "Stage 1-pretrain",
        "Stage 2-instruct",
        "layers.0.mlp",
        "image_missing",
        "name: a <b> & c",
        "torch 2.13.0",
        "llava-moe chat run='a folder'",
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == 1 + 2 * 2
    assert page.tags.count("img") == 1
    assert path.stat().st_size < 400_000


def stage_scores(num_asked: int = 300) -> StageScores:
    """Two domains and all together; the end is at 0.612 as in ``result``."""

    def line(name: str, value: float, is_difference: bool = False) -> StageLine:
        measure = Measure(value, num_asked, value - 0.05, value + 0.05)
        return StageLine(name, dict.fromkeys(("general", "documents", "all"), measure), is_difference)

    scores = {MAJORITY: 0.333, BLIND: 0.111, "after 1-pretrain": 0.444, "after 2-instruct": 0.612, OTHER: 0.25}
    lines = [line(name, value) for name, value in scores.items()] + [line("over 1-pretrain", 0.168, True)]
    domains = ("general", "documents", "all")
    return StageScores("made", "exact_match", domains, tuple(lines), "after 2-instruct", ("after 1-pretrain",))


def test_earlier_stages_stand_beside_the_final_scores(tmp_path: Path, result: BenchmarkResult) -> None:
    stages = [read_stage(write_stage(tmp_path / name)) for name in ("1-pretrain", "2-instruct")]
    page = open_page(write_report(tmp_path, stages, [result], stage_scores={"made": stage_scores()}))
    check_it_stands_alone(page)
    wanted = ["after 1-pretrain 44.4", "blind, no picture 11.1", "over 1-pretrain +16.8 ±5.0"]
    wanted += ["44 % after 1-pretrain", "11 % blind, no picture", "33 % by majority answer", "stage 1", "stage 2"]
    for words in wanted:
        assert words in page.text, words
    # Their table stands in place of the headline, and that by kind stays; where they were asked less, it is beside it.
    assert page.text.count("right image") == 1
    fewer = open_page(write_report(tmp_path, stages, [result], stage_scores={"made": stage_scores(299)}))
    assert fewer.text.count("right image") > 1 and "the earlier stages were asked too" in fewer.text


def test_the_chart_has_a_bar_for_each_stage_and_baseline(result: BenchmarkResult) -> None:
    colors = colors_of(result.domains)
    plain, staged = score_chart(result, colors), score_chart(result, colors, stage_scores())
    assert [plain.count(f">{name}<") for name in ("right image", "other", "majority", "blind")] == [2, 2, 2, 0]
    assert [staged.count(f">{name}<") for name in ("stage 2", "stage 1", "blind", "other", "majority")] == [2] * 5


def test_a_single_stage_without_scores_says_how_to_get_them(tmp_path: Path) -> None:
    write_stage(tmp_path / "run", experts=True)
    path = report_run(tmp_path / "run")
    page = open_page(path)
    check_it_stands_alone(page)
    assert "No benchmark has been scored yet" in page.text
    assert stage_folders(tmp_path / "run") == [tmp_path / "run"]


def test_an_empty_folder_still_makes_a_page(tmp_path: Path) -> None:
    page = open_page(report_run(tmp_path))
    check_it_stands_alone(page)
    assert "No step has been logged yet" in page.text


def test_stages_are_found_by_their_logs_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("2-instruct", "1-pretrain"):
        write_stage(tmp_path / name)
    (tmp_path / "eval").mkdir()
    assert [folder.name for folder in stage_folders(tmp_path)] == ["1-pretrain", "2-instruct"]
    text = open_page(report_run(tmp_path)).text
    assert text.index("Stage 1-pretrain") < text.index("Stage 2-instruct")


def test_a_stage_is_summed_over_its_logged_steps(tmp_path: Path) -> None:
    stage = read_stage(write_stage(tmp_path / "s", 4, experts=True))
    general, documents = account_domains(stage)
    assert (general.domain, general.samples, general.supervised_tokens, general.left_out) == ("general", 8, 40, 1)
    assert (documents.samples, documents.supervised_tokens, documents.left_out) == (4, 80, 0)
    assert count_reasons(stage) == (("pictures", "image_missing", 1),)
    [layer] = last_expert_shares(stage)
    assert layer.shares == {"general": (0.25, 0.75), "documents": (1.0, 0.0)}
    assert layer.entropy == {"general": 0.5, "documents": 0.0}
    assert stage.seconds == 2.0


def test_a_log_cut_short_and_steps_written_twice_are_read_right(tmp_path: Path) -> None:
    folder = write_stage(tmp_path / "s", 3)
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(step_record(3, experts=False) | {"loss": 9.0}) + "\n" + '{"step": 4, "lo')
    stage = read_stage(folder)
    assert [step["step"] for step in stage.steps] == [1, 2, 3]
    assert stage.steps[-1]["loss"] == 9.0


def test_damaged_lines_are_told_with_the_steps_that_are_missing(tmp_path: Path) -> None:
    folder = write_stage(tmp_path / "s", 6)
    (folder / "quarantine.jsonl").write_text("broken\n")
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join([lines[0], lines[1][:9] + "\n", *lines[3:]]))
    (folder / "log.jsonl.damaged").write_text(lines[2])
    stage = read_stage(folder)
    assert stage.damaged == ("2 lines of log.jsonl; missing here: step 2 to 3", "1 line of quarantine.jsonl")
    assert "2 lines of log.jsonl; missing here: step 2 to 3" in open_page(report_run(folder)).text
    (folder / "log.jsonl").write_text("broken\n")
    assert "2 lines of log.jsonl" in open_page(report_run(folder)).text


@pytest.mark.parametrize(
    ("logged", "missing"),
    [
        ([1, 2, 3], []),
        ([1, 3, 4], [(2, 2)]),
        ([10, 20, 25], []),
        ([10, 40, 50, 53], [(20, 30)]),
        ([20, 30, 40], [(10, 10)]),
        ([7], []),
        ([], []),
    ],
)
def test_missing_steps_are_found_by_the_logs_own_distance(logged: list[int], missing: list[tuple[int, int]]) -> None:
    assert missing_steps(logged) == missing


def test_a_step_that_was_not_finite_is_shown_as_such(tmp_path: Path) -> None:
    folder = write_stage(tmp_path / "s", 3, experts=True)
    record = step_record(4, experts=True) | {"loss": None, "grad_norm": None, "objective": None}
    record["domains"]["general"]["loss"] = None
    layer = next(iter(record["experts"].values()))
    layer["general"]["entropy"] = None
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    assert "not finite" in open_page(report_run(folder)).text
    text = json.dumps(record).replace("null", "NaN")
    (folder / "log.jsonl").write_text(text + "\n")  # as earlier releases wrote it
    assert "not finite" in open_page(report_run(folder)).text


def test_charts_are_bare_svg_in_the_pages_own_color(tmp_path: Path, result: BenchmarkResult) -> None:
    stage = read_stage(write_stage(tmp_path / "s", 500, experts=True))
    colors = colors_of(("general", "documents"))
    for chart in (loss_chart(stage, colors), step_charts(stage), score_chart(result, colors)):
        page = Page(chart)
        assert page.tags[0] == "svg" and page.open == []
        assert "http" not in chart and "xmlns" not in chart and "<style" not in chart
        assert "currentColor" in chart and "#010203" not in chart
    assert "step" in Page(loss_chart(stage, colors)).text
    assert "load-balance loss" in Page(step_charts(stage)).text
    assert colors["general"] in loss_chart(stage, colors)


def test_a_name_of_any_kind_is_drawn_as_text_and_stays_in_its_place(tmp_path: Path, result: BenchmarkResult) -> None:
    names = [
        *(r"$\frac{$", "$x$", 'x" onload="alert(1)', 'id="a', "url(#b", "#010203", "<style>i{}</style>", "_hidden"),
        *("&amp;", "-->", "\x1b]0;t\x07", "a\u202eb", "\ud800", "漢字", "مرحبا", "👩‍👩‍👧", "", "a\nb", "x" * 500),
    ]
    steps = [
        {"step": step, "domains": {name: {"loss": 1.0, "supervised_tokens": 1} for name in names}} for step in (1, 2)
    ]
    rows = tuple(replace(row, domain=name) for name in names for row in result.rows[:1])
    colors = colors_of(names)
    stage = StageLog('x" onload="alert(1)', tuple(steps))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        charts = [loss_chart(stage, colors), step_charts(stage), score_chart(replace(result, rows=rows), colors)]
    for chart in charts:
        page = Page(chart)
        assert page.open == [] and set(page.tags) <= {"svg", "g", "defs", "path", "use", "text", "clippath", "rect"}
        assert "onload" not in page.attributes and "\x1b" not in chart and "\u202e" not in chart
    assert 'aria-label="Loss by domain, stage x&quot; onload=&quot;alert(1)"' in charts[0]
    shown = Page(charts[2]).words
    for words in (
        r"$\fra…",
        "$x$",
        'x" on…',
        'id="a',
        "url(#b",
        "#0102…",
        "_hidd…",
        "漢字",
        "xxxxx…",
        r"a\x0ab",
        r"\ud800",
    ):
        assert words in shown, words


def test_a_long_curve_is_drawn_with_few_points(tmp_path: Path) -> None:
    colors = colors_of(("general", "documents"))
    short = loss_chart(read_stage(write_stage(tmp_path / "a", 100)), colors)
    long = loss_chart(read_stage(write_stage(tmp_path / "b", 5000)), colors)
    assert len(long) < 2 * len(short)


@pytest.mark.parametrize(
    ("first", "loss", "speed"),
    [(1, 2.5, 120.0), (1, 3e7, 4e6), (1, 1e-7, 0.004), (1_234_560, 0.01, 37.7), (900_000, 123.4, 12_345.6)],
)
@pytest.mark.parametrize("num_steps", [1, 3000])
def test_no_number_of_a_chart_is_cut_or_meets_the_next_panel(
    first: int, loss: float, speed: float, num_steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = read_stage(write_stage(tmp_path / "s", 3, experts=True))
    ledger = {"loss": loss, "supervised_tokens": 9}
    steps = tuple(
        {
            **stage.steps[0],
            **{"step": first + number, "domains": {"general": ledger | {"loss": loss / (1 + number)}}},
            **{"learning_rate": 2e-5 / (1 + number), "grad_norm": loss + number, "tokens_per_second": speed + number},
        }
        for number in range(num_steps)
    )
    drawn: list[Figure] = []

    def keep(figure: Figure, _: str) -> str:
        drawn.append(figure)
        return ""

    monkeypatch.setattr("llava_moe.report.charts.inline_svg", keep)
    with rc_context(STYLE):
        loss_chart(replace(stage, steps=steps), dict.fromkeys(stage.domains, "#123456"))
    with rc_context(STYLE | {"font.size": 8.5, "axes.titlesize": 8.5}):
        step_charts(replace(stage, steps=steps))
    for figure, num_panels in zip(drawn, (1, 4), strict=True):
        FigureCanvasSVG(figure)  # whose letters have the widths of the drawing
        figure.draw_without_rendering()
        whole = figure.bbox
        boxes = [tight_box(axes) for axes in figure.axes]
        assert len(boxes) == num_panels
        for box in boxes:
            assert box.x0 >= whole.x0 and box.x1 <= whole.x1 and box.y0 >= whole.y0 and box.y1 <= whole.y1
        assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))


def tight_box(axes: Axes) -> Bbox:
    box = axes.get_tightbbox()
    assert box is not None
    return box


def tiny_png(color: tuple[int, int, int] = (9, 9, 9)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", (300, 20), (*color, 128)).save(stream, format="PNG")
    return stream.getvalue()


def test_examples_hold_right_and_wrong_answers_of_each_domain_and_of_many_kinds() -> None:
    questions = [
        Question(f"{domain}-{number}", (tiny_png(),), "What?", ("x",), domain, f"kind {number % 4}", True)
        for domain in ("general", "medical")
        for number in range(24)
    ]
    answers = {
        question.id: Answer(question.id, "x", ("x",), {"exact_match": float(number % 3 > 0)})
        for number, question in enumerate(questions)
    }
    questions.append(Question("general-0@other:general-1", (tiny_png(),), "What?", ("x",), "general", "twin", True))
    answers["general-0@other:general-1"] = Answer("general-0@other:general-1", "y", ("x",), {"exact_match": 0.0})
    shown = choose_examples(questions, answers, right=3, wrong=2)
    assert [(one.domain, one.is_right) for one in shown] == [
        (domain, is_right) for domain in ("general", "medical") for is_right in (True, True, True, False, False)
    ]
    assert len({one.kind for one in shown[:3]}) == 3
    assert all(one.kind != "twin" for one in shown)
    assert shown == choose_examples(questions, answers, right=3, wrong=2)
    assert shown != choose_examples(questions, answers, right=3, wrong=2, seed=1)


def test_a_thumbnail_is_small_and_inside_the_page() -> None:
    address = thumbnail(tiny_png())
    assert address.startswith("data:image/webp;base64,")
    assert len(address) < 2000


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "0:04"), (271, "4:31"), (600, "10:00"), (3909, "1:05:09")])
def test_durations_read_as_minutes_and_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.slow
@needs_browser
def test_a_browser_draws_the_page(tmp_path: Path, result: BenchmarkResult) -> None:
    write_stage(tmp_path / "run" / "1-pretrain")
    stages = [read_stage(tmp_path / "run" / "1-pretrain")]
    colors = draw(write_report(tmp_path / "run", stages, [result]))
    # The two series' bars and lines are on the picture: the charts were drawn, not just loaded.
    assert {(0x39, 0x87, 0xE5), (0xD9, 0x59, 0x26)} <= colors
