"""Names, ids, questions, answers and folders as an attacker chooses them, through the real commands to every page."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from llava_moe.config.hydra_words import quote
from llava_moe.text.escape_control import visible
from tests.browser import document, needs_browser
from tests.eval.generation.test_endpoint import Server, answer
from tests.forked_commands import CommandServer
from tests.report.test_report import Page

NAMES = (
    *('x" onload="alert(1)', "<img src=x onerror=alert(1)>", r"$\frac{$", "</script>", "{{7*7}}", "[bold]x[/]", "[/]"),
    *("\x1b]0;title\x07", "a\u202eb", "_x", "x" * 500, "👩‍👩‍👧", ":smile:", "a|b", "`x`", "</style></title>", "a\rb"),
    *("'\"><svg onload=alert(1)>", "漢字", "مرحبا", "%s{0}", "\\input{/etc/passwd}", "general"),
)
KEYS = {
    "LLAVA_MOE_API_KEY": "k3y-of-the-server",
    "HF_TOKEN": "hf_k3yOfTheHubk3yOfTheHubk3yOfTheHub",
    "WANDB_API_KEY": "k3y0123456789abcdef0123456789abcdef01234",
}
OURS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "ul", "li", "span", "div", "b"),
    *("small", "table", "caption", "tr", "th", "td", "figure", "figcaption", "img", "br", "details", "summary", "pre"),
    *("code", "i", "s", "bdi", "label", "input", "a", "dl", "dt", "dd"),
    *("svg", "g", "defs", "path", "use", "text", "tspan", "clippath", "rect", "line", "circle"),
}
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Told:
    """What a command said."""

    words: tuple[str, ...]
    status: int
    output: str
    errors: str


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def write_mixture(folder: Path, images: Path) -> None:
    """``data=hostile``: a source for each name, which is also its domain, its records' id and text."""
    sources = {}
    for number, name in enumerate(NAMES):
        said = turns(f"<image>\nwhat is {name[:40]} ?", f"three {name[:40]}")
        record = {"id": name, "image": f"{number % 3}.png", "conversations": said}
        bad = {"id": f"{name} 2", "conversations": turns(name[:40])}
        file = folder / f"{number}.json"
        file.write_text(json.dumps([record] * 4 + [bad]))
        sources[name.replace(".", "")] = {"domain": name, "format": "auto", "path": str(file), "images": str(images)}
    own = folder / "own" / "data"
    own.mkdir(parents=True)
    settings = {"max_bad_share": 0.5, "sources": sources}
    (own / "hostile.yaml").write_text("defaults: [mine, _self_]\n" + yaml.safe_dump(settings))


def write_charts(folder: Path, images: Path) -> None:
    """ChartQA's layout, its questions and answers hostile."""
    (folder / "png").mkdir(parents=True)
    rows = []
    for number, name in enumerate(NAMES):
        shutil.copy(images / f"{number % 3}.png", folder / "png" / f"{number}.png")
        rows.append({"imgname": f"{number}.png", "query": f"what is {name} ?", "label": name})
    for part, of_part in (("human", rows[:12]), ("augmented", rows[12:])):
        (folder / f"test_{part}.json").write_text(json.dumps(of_part))


def asked_about(body: dict[str, Any]) -> str:
    """The name in the question of :func:`write_charts`: a server's answer is as hostile as its question."""
    text: str = body["messages"][-1]["content"][-1]["text"]
    name = text.partition("what is ")[2].partition(" ?")[0]
    return f"{name} {KEYS['LLAVA_MOE_API_KEY']}" if name == "general" else name


@pytest.fixture(scope="module")
def told(
    words_for_tiny: tuple[str, ...],
    own_data: Path,
    command_server: CommandServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, list[Told]]]:
    """The folder that all commands ran in, and what each said."""
    folder = tmp_path_factory.mktemp("hostile")
    images = folder / "images"
    shutil.copytree(own_data, images)
    write_mixture(folder, images)
    write_charts(folder / "charts", images)
    server = Server()
    server.reply = lambda body: answer(asked_about(body), "stop")
    kept = [word for word in words_for_tiny if not word.startswith(("data=", "path=", "images="))]
    words = [*kept, "data=hostile", "~data.sources.mine", "--config-dir", str(folder / "own"), "adapter=lora"]
    words += ["train.max_steps=2", "train.global_batch_size=32"]
    charts = ["benchmark_paths.chartqa=charts", "benchmarks=[chartqa]", "num_threads=1"]
    run, other = "out/" + NAMES[0], "out/<b>[bold]x[/]$\\frac{$\x1b[2J"
    asked = [f"model.endpoint={server.address}", "model.name=tiny", f"out={other}"]
    said = []
    environment = {"LLAVA_MOE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", **KEYS}
    try:
        for command in (
            ["data", "check", *words, "out=found"],
            ["data", "stats", *words, "out=stats"],
            ["data", "preview", *words, "out=stats", "rows=3", "shown=3"],
            ["train", *words, f"out={run}"],
            ["eval", f"run={run}", *charts],
            ["eval", *asked, *charts],
            ["eval", f"runs=[{quote(run)},{quote(other)}]", "out=compared"],
            ["export", f"run={run}", "to=peft", "out=exported"],
        ):
            done = command_server.run(command, folder=folder, environment=environment)
            said.append(Told(tuple(command[:2]), done.poll() or 0, done.output, done.errors))
    finally:
        server.stop()
    yield folder, said


def pages_of(folder: Path) -> Sequence[Path]:
    return sorted(folder.rglob("*.html"))


def test_each_command_ends_well_and_shows_nothing_that_a_terminal_obeys(told: tuple[Path, list[Told]]) -> None:
    for one in told[1]:
        assert one.status == 0, (one.words, one.errors[-2000:], one.output[-2000:])
        assert "Traceback" not in one.errors and "Glyph" not in one.errors, one.errors
        for text in (one.output, one.errors):
            assert text == visible(text, keep="\n\t"), one.words
    everything = "".join(one.output for one in told[1])
    for name in ("[bold]x[/]", "[/]", ":smile:", "a\\x0db", "\\x1b]0;title\\x07", "a\\u202eb", r"$\frac{$"):
        assert name in everything, name


def test_no_page_holds_an_element_or_attribute_that_is_not_ours(told: tuple[Path, list[Told]]) -> None:
    folder, _ = told
    assert {page.name for page in pages_of(folder)} == {
        *("report.html", "comparison.html", "check.html", "stats.html", "preview.html")
    }
    for path in pages_of(folder):
        text = path.read_text(encoding="utf-8")
        page = Page(text)
        assert page.open == [] and set(page.tags) <= OURS, (path, set(page.tags) - OURS)
        assert not [name for name in page.attributes if name.startswith("on")], path
        assert all(address.startswith(("data:", "#")) for address in page.addresses), path
        assert text.count("<title>") == text.count("<style>") == 1 and POLICY in text
        assert text == visible(text, keep="\n\t"), path


def test_every_name_stands_on_the_pages_in_full(told: tuple[Path, list[Told]]) -> None:
    folder, _ = told
    shown = {path.name: Page(path.read_text(encoding="utf-8")).text for path in pages_of(folder)}
    for name in NAMES:
        told_name = " ".join(visible(name).split())
        for page in ("report.html", "stats.html", "preview.html", "check.html"):
            assert told_name in shown[page], (page, name[:40])
    for name in (NAMES[0], "<b>[bold]x[/]$\\frac{$\\x1b[2J"):
        assert name in shown["comparison.html"]


def test_no_key_of_the_environment_stands_in_any_file_or_line(told: tuple[Path, list[Told]]) -> None:
    folder, said = told
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(path.name == "environment.json" for path in files) and any(
        b"general [hidden]" in one for one in files.values()
    )
    for key in KEYS.values():
        assert not [path for path, content in files.items() if key.encode() in content]
        assert not [one.words for one in said if key in one.output + one.errors]


def test_markdown_and_cards_show_names_as_text(told: tuple[Path, list[Told]]) -> None:
    folder, _ = told
    written = [*folder.rglob("*.md")]
    assert {path.name for path in written} >= {"comparison.md", "README.md"}
    for path in written:
        text = path.read_text(encoding="utf-8")
        front, body = re.fullmatch(r"(?:---\n(.*?)\n---\n)?(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
        assert front is None or set(yaml.safe_load(front)) <= {"library_name", "base_model", "pipeline_tag", "tags"}
        page = MarkdownIt("commonmark").enable("table").render(body)
        assert not re.findall(r"<(?:script|img|svg|style|title|a)\b", page), path
        assert text == visible(text, keep="\n\t")


@needs_browser
def test_a_browser_makes_of_each_page_what_the_parser_makes(told: tuple[Path, list[Told]]) -> None:
    for path in pages_of(told[0]):
        page = Page(document(path))
        assert set(page.tags) <= OURS | {"tbody"} and not [one for one in page.attributes if one.startswith("on")]
