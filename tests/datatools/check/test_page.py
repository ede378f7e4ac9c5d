"""The page and the numbers: whole, without script or network, an example of each kind."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from llava_moe.data.quarantine_filter import read_list
from llava_moe.datatools.check.examples import examples_of
from llava_moe.datatools.check.fault_kinds import KINDS
from llava_moe.datatools.check.files import write_list, write_numbers
from llava_moe.datatools.check.findings import quarantine_list
from llava_moe.datatools.check.page import write_page
from llava_moe.datatools.check.run_check import Checked, check_mix
from llava_moe.errors import UserError
from tests.datatools.check.conftest import MakeView, say

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what a browser would load, and holds tags to closing in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href", "data", "action") if name in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        assert tag != "script" and not any(name.startswith("on") for name in given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def checked(make_view: MakeView, pictures: list[str]) -> Checked:
    records = [say(name, f"<image> What is {name}?", "noise") for name in pictures]
    records += [
        say(pictures[0], '<image> <b>Bold</b> & "quoted"?', " "),
        say(["gone.png", pictures[1]], "<image><image> Which?", "neither"),
        say(None, "Who?", "As an AI language model, I am nobody."),
    ]
    return check_mix([make_view(records)])


def test_the_page_stands_alone_with_an_example_of_each_kind(checked: Checked, tmp_path: Path) -> None:
    path = write_page(tmp_path / "out", "a <title>", "exp=mine", checked, 2, ["a note"], ["llava-moe train x='y z'"])
    page = Page(path.read_text())
    assert not page.open and page.ids == ["empty_answer", "image_missing", "refusal"]
    inside = [address for address in page.addresses if not address.startswith("#")]
    assert len(inside) == 2 and all(address.startswith("data:image/webp;base64,") for address in inside)
    shown = Image.open(io.BytesIO(base64.b64decode(inside[0].partition(",")[2])))
    assert max(shown.size) <= 224
    for words in ("a <title>", '<b>Bold</b> & "quoted"?', "gone.png: image_missing", "a note", "x='y z'", "exp=mine"):
        assert words in page.words
    assert KINDS["image_missing"].remedy in page.words


def test_an_example_shows_the_system_text_of_its_record(
    make_view: MakeView, pictures: list[str], tmp_path: Path
) -> None:
    record = say(pictures[0], "<image> Who?", "me", system="Speak as a pirate.")
    examples = examples_of(check_mix([make_view([record, record])]))
    assert [example.turns[:2] for example in examples if example.kind.name == "duplicate"] == [
        (("system", "Speak as a pirate."), ("user", "<image> Who?"))
    ]


def test_a_clean_page_says_nothing_was_found(make_view: MakeView, pictures: list[str], tmp_path: Path) -> None:
    checked = check_mix([make_view([say(pictures[0], "<image> What?", "noise")])])
    page = Page(write_page(tmp_path, "clean", "", checked, 0).read_text())
    assert "Nothing." in page.words and not page.addresses


def test_training_reads_the_list_back(checked: Checked, tmp_path: Path) -> None:
    listed, _ = quarantine_list(checked.findings)
    assert read_list(write_list(tmp_path, listed)) == tuple(listed) and len(listed) == 2
    assert read_list(write_list(tmp_path, [])) == ()


def test_the_numbers_are_those_of_the_check(checked: Checked, tmp_path: Path) -> None:
    listed, _ = quarantine_list(checked.findings)
    told = json.loads(write_numbers(tmp_path, {"train": "words"}, checked, listed).read_text())
    source = told["sources"]["mine"]
    assert (told["train"], told["records"], told["listed"], source["bad"], source["listed"]) == ("words", 9, 2, 2, 2)
    assert source["listed_alone"] == {}
    assert told["images"] == {"shown": 8, "different": 7, "opened": 7}
    (first,) = source["kinds"]["image_missing"]["first"]
    assert first["record"] == 7 and "gone.png" in first["detail"]


def test_every_kind_says_what_it_means_and_what_to_do() -> None:
    for name, kind in KINDS.items():
        assert kind.name == name and kind.meaning.endswith(".") and kind.remedy.endswith(".")
    assert len(KINDS) >= 40


def test_a_folder_that_cannot_be_written_is_one_line(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_page(tmp_path / "file", "title", "", checked, 0)
