"""What a typed line means, however the terminal writes a dragged file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.chat.line import Command, Question, image_path, read_line
from llava_moe.errors import UserError

DRAGGED: dict[str, Callable[[Path], str]] = {
    "as it is": str,
    "quoted by a shell": lambda path: shlex.quote(str(path)),
    "in double quotes": lambda path: f'"{path}"',
    "with backslashes": lambda path: "".join(c if c.isalnum() or c in "/._-" else f"\\{c}" for c in str(path)),
    "as a URI": lambda path: path.as_uri(),
    "as a URI of this host": lambda path: path.as_uri().replace("file://", "file://localhost"),
    "as a quoted URI": lambda path: f"'{path.as_uri()}'",
}
NAMES = ["plain.png", "two words.png", "it's (1) & more.jpeg", "ünï#%?.webp"]


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / "my images" / name for name in NAMES}
    (tmp_path / "my images").mkdir()
    for path in paths.values():
        path.touch()
    return paths


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", DRAGGED)
def test_a_dragged_file_is_found_however_it_is_written(name: str, way: str, images: dict[str, Path]) -> None:
    written = DRAGGED[way](images[name])
    assert read_line(f"{written} ") == Question("", (images[name],))
    assert image_path(written) == images[name]
    assert read_line(f"/image {written}") == Command("/image", written)


@pytest.mark.parametrize("way", DRAGGED)
def test_a_question_may_follow_or_precede_the_file_and_files_may_be_several(way: str, images: dict[str, Path]) -> None:
    first, second = images["two words.png"], images["plain.png"]
    asked = 'What\'s the difference, "here"?'
    written = DRAGGED[way](first)
    assert read_line(f"{written} {asked}") == Question(asked, (first,))
    assert read_line(f"{asked} {written}") == Question(asked, (first,))
    assert read_line(f"{written} {DRAGGED[way](second)}  {asked}") == Question(asked, (first, second))


def test_a_bare_name_is_an_image_when_it_is_all_that_was_typed(
    images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images["plain.png"].parent)
    assert read_line("plain.png") == Question("", (Path("plain.png"),))
    assert read_line("./two words.png what?") == Question("what?", (Path("two words.png"),))
    assert read_line("plain.png is what?") == Question("plain.png is what?", ())
    assert read_line("what is in plain.png") == Question("what is in plain.png", ())


def test_a_home_path_is_found(images: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(images["plain.png"].parent))
    assert read_line("~/plain.png what?") == Question("what?", (images["plain.png"],))


@pytest.mark.parametrize(
    "text",
    [
        "What colour is it?",
        '"red" or "blue"?',
        "~5 or 6?",
        "it's and/or",
        "3/4 of it",
        "is /etc/passwd one?",
        "'",
        "a\\",
    ],
)
def test_other_text_is_a_question_word_for_word(text: str) -> None:
    assert read_line(f"  {text} \n") == Question(text, ())


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    try:
        read = read_line(text)
    except UserError as error:
        assert "/" in str(error)
        return
    if isinstance(read, Question) and not read.images:
        assert read.text == text.strip()


@pytest.mark.parametrize(
    ("line", "name", "argument"), [("/quit", "/quit", ""), ("/exit", "/quit", ""), ("/? ", "/help", "")]
)
def test_commands_have_their_usual_names(line: str, name: str, argument: str) -> None:
    assert read_line(line) == Command(name, argument)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/imag x.png", "/imag is not a command (did you mean /image?)"),
        ("/rest", "(did you mean /reset?)"),
        ("/xyzzy", "/xyzzy is not a command: /help lists them"),
        ("/nowhere/a.png what?", "image /nowhere/a.png does not exist"),
        ("'/no where/a.png' what?", "image /no where/a.png does not exist"),
        ("/no\\ where/a.png", "image /no where/a.png does not exist"),
        ("file:///no%20where/a", "image /no where/a does not exist"),
        ("https://example.org/a.png what?", "https://example.org/a.png is not fetched: save the image"),
        ("HTTP://example.org", "is not fetched"),
        ("what?\udcff", "not UTF-8"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(line: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        read_line(line)
    assert told in str(caught.value) and "\n" not in str(caught.value)
