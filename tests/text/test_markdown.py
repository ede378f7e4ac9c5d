"""Whatever a text holds, Markdown shows it as text, and a table keeps its cells."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llava_moe.text.escape_control import visible
from llava_moe.text.markdown import markdown_code, markdown_text

HOSTILE = (
    *(
        "<script>alert(1)</script>",
        "a|b",
        "`x`",
        "``",
        "**bold**",
        "*x*",
        "_x_",
        "__init__",
        "[a](javascript:alert(1))",
    ),
    *("[a][b]", "[a]: http://x", "![a](x.png)", "&lt;", "&#60;", "a\\|b", "\\", "$x$", "~~x~~", "x\ny", "|", "# x"),
    *("mix_general_doc_med", "+3.4 [+1.0, +5.8] *", "a & b", "100 %", "<!-- x", "http://x", "\x1b[2J\u202e", "a` b"),
)
PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def rendered(markdown: str) -> str:
    return PARSER.render(markdown)


def cells(page: str) -> list[str]:
    return [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", page, re.DOTALL)]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_shows_the_text_and_nothing_else(text: str) -> None:
    row = f"| {markdown_text(text)} | {markdown_code(text)} | end |"
    page = rendered(f"| a | b | c |\n|---|---|---|\n{row}\n")
    plain, code, end = cells(page)
    assert plain == visible(text) and end == "end"
    assert code.removeprefix("<code>").removesuffix("</code>") == visible(text)


@given(st.text(alphabet="ab`*_[]()<>|\\~$&#;:! x1", min_size=1))
def test_a_paragraph_shows_the_text_and_nothing_else(text: str) -> None:
    page = rendered(f"a {markdown_text(text)} b")
    assert html.unescape(page) == f"<p>a {text} b</p>\n"


@given(st.text(alphabet="ab` |", min_size=1))
def test_a_span_of_code_holds_the_text(text: str) -> None:
    assert html.unescape(rendered(f"a {markdown_code(text)} b")).count("<code>") == 1


def test_numbers_and_common_names_need_no_backslash() -> None:
    for text in ("mix_general_doc_med", "+3.4 [+1.0, +5.8] *", "61.2", "a & b", "exact match in % (points)", "-"):
        assert markdown_text(text) == text
