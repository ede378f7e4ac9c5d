"""What holds for each page by how all of them are made."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import llava_moe
from llava_moe.pages.html_page import page_template
from tests.browser import document, needs_browser

PACKAGE = Path(llava_moe.__file__).parent
POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">"
)
HOSTILE = "</style><script>document.title='owned'</script>\x1b[2J\u202e{{7*7}}"


def pages() -> list[Path]:
    folders = (PACKAGE, PACKAGE.parent / "studies")
    found = [path for folder in folders for path in folder.rglob("*.html.j2") if "<body>" in path.read_text("utf-8")]
    assert len(found) >= 5
    return found


def test_each_page_begins_with_a_policy_that_lets_nothing_run_or_load() -> None:
    head = (PACKAGE / "pages" / "head.html.j2").read_text(encoding="utf-8")
    assert head.startswith("<!doctype html>") and POLICY in head
    for path in pages():
        text = path.read_text(encoding="utf-8")
        assert text.startswith('{% include "head.html.j2" %}\n<title>'), path.name
        assert "|safe" not in text.replace(" ", "") and "autoescape" not in text, path.name


def test_each_table_of_a_page_can_be_scrolled() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        assert "page.css.j2" in text or "style.css.j2" in text
        assert text.count("<table") == text.count('<div class="scroll"><table'), path.name


def test_what_explains_a_table_or_a_drawing_does_not_scroll_away_with_it() -> None:
    for path in pages():
        text = path.read_text(encoding="utf-8")
        assert "<caption" not in text and "overflow-x" not in text, f"{path.name}: it stands before .scroll or .drawing"
        drawings = re.findall(r'<div class="drawing">(.*?)</div>', text, re.DOTALL)
        assert len(drawings) == text.count('class="drawing"') and "figcaption" not in "".join(drawings), path.name
    css = (PACKAGE / "pages" / "page.css.j2").read_text(encoding="utf-8")
    assert css.count("overflow-x: auto") == 1 and ".scroll, .drawing { overflow-x: auto" in css


def made(folder: Path, body: str, **values: object) -> str:
    (folder / "made.html.j2").write_text(f'{{% include "head.html.j2" %}}\n<title>x</title>\n{body}')
    return page_template(folder / "made.html.j2").render(**values)


def test_what_a_page_is_given_is_escaped_and_visible_and_our_own_markup_stays(tmp_path: Path) -> None:
    text = made(
        tmp_path, '<p title="{{ told }}">{{ told }}</p>{{ own }}{{ [told] | join }}', told=HOSTILE, own=Markup("<hr>")
    )
    shown = "&lt;/style&gt;&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;\\x1b[2J\\u202e{{7*7}}"
    assert text.count(shown) == 3 and "<hr>" in text and "\x1b" not in text and "\u202e" not in text
    with pytest.raises(UndefinedError):
        made(tmp_path, "{{ forgotten }}")


@needs_browser
def test_a_browser_runs_no_script_even_where_one_stands_on_a_page(tmp_path: Path) -> None:
    script = "<script>document.title = 'owned'</script><svg onload=\"document.title = 'owned'\"></svg>"
    page = tmp_path / "page.html"
    page.write_text(made(tmp_path, "{{ script }}", script=Markup(script)))
    assert "<title>x</title>" in document(page)
    # The same without its policy: the browser of this test would run it.
    page.write_text(page.read_text().replace(POLICY, ""))
    assert "<title>owned</title>" in document(page)
