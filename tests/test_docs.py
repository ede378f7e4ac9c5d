"""Every command that the documentation shows is one that the command line takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llava_moe.cli import run
from llava_moe.commands.table import COMMANDS, DATA_COMMANDS, SECOND_WORDS
from llava_moe.data.conversation import Conversation, check_images
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from tests.shown_commands import LAUNCHERS, PAGES, README, ROOT, blocks_of, shown_commands, write_shown_files

FOLDERS = ("docs/contributing", "data_recipes", "tools", "studies")
LINKING = [*PAGES, *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
NUM_WORDS, NUM_WORDS_OF_A_SENTENCE = 900, 20
"""What the README may have at most: it is read in a minute."""
EVERY_COMMAND = [*COMMANDS.values(), *(one for kind in SECOND_WORDS.values() for one in kind.values())]
# What has no configuration to compose.
PLAIN = ("ls", "doctor", "init", "completion", "help")


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page, without code, tables, headings and the addresses of links."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    for paragraph in re.split(r"\n\s*\n|\n- ", "\n".join(lines)):
        yield from (one.strip() for one in re.split(r"(?<=[.!?])\W*\s", paragraph) if one.strip())


def test_the_readme_is_read_in_a_minute() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) <= NUM_WORDS
    long = [one for one in sentences(text) if len(one.split()) > NUM_WORDS_OF_A_SENTENCE]
    assert not long, "\n".join(long)
    assert sum(1 for _ in sentences(text)) > 10


def test_what_the_readme_says_was_run_are_tests() -> None:
    section = README.read_text(encoding="utf-8").partition("## What was run\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    named = [cell for row in rows[2:] for cell in row[1:]]
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [cell for cell in named if cell != "not run" and f"def {cell.strip('`')}(" not in written]
    assert len(named) >= 11 and not missing


def test_every_link_in_the_documentation_leads_to_a_file() -> None:
    broken = []
    for page in LINKING:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            where = target.partition("#")[0]
            if where and not re.match(r"[a-z]+:", target) and not (page.parent / where).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_every_file_that_a_page_or_template_names_is_there() -> None:
    rooms = "|".join(path.name for path in ROOT.iterdir() if path.is_dir())
    named = re.compile(rf"(?<![\w/.@:-])((?:{rooms})/[\w/.-]+\.(?:py|md|yaml|j2|sh|json|parquet))\b")
    templates = [path for room in ("llava_moe", "studies") for path in (ROOT / room).rglob("*.j2")]
    wrong, num_found = [], 0
    for page in [*PAGES, *templates]:
        for path in named.findall(page.read_text(encoding="utf-8")):
            num_found += 1
            # PAPER_FIGURE.yaml stands for any.
            if not re.search(r"[A-Z]{2}", path) and not (ROOT / path).is_file():
                wrong.append(f"{page.relative_to(ROOT)}: {path}")
    assert not wrong and num_found > 20


def unquoted(line: str) -> str:
    """A line as the shell sees it outside of quotes, its comment left out."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|(^|\s)#.*", "", line)


def test_no_command_that_is_shown_holds_what_zsh_would_take_for_a_pattern() -> None:
    shown = [line for page in PAGES for block in blocks_of(page) for line in block.splitlines()]
    usages = [line.strip() for command in EVERY_COMMAND for line in command.usage.splitlines()]
    # [key=value ...] is grammar, and stands in the help alone.
    shown += [re.split(r"\s{2,}", usage)[0] for usage in usages if "..." not in usage and " [" not in usage]
    typed = [line for line in shown if re.match(r"\s*(llava-moe|[A-Z]+=|scripts|torchrun|for )", line)]
    assert len(typed) > 100
    assert not [line for line in typed if set("[]{}*?") & set(unquoted(line))]


def composed(words: Sequence[str]) -> int:
    """The exit status of composing what a command's words ask for; nothing is run."""
    if words[0] in LAUNCHERS and words[1] not in COMMANDS:
        words = [words[0], "train", *words[1:]]
    _, name, *rest = words
    if name in PLAIN:
        return 0
    if "--cfg" in rest or "--help" in rest:
        return run([name, *rest])
    return run([name, *rest, "--cfg", "job"])


def test_the_documentation_shows_commands() -> None:
    names = {shown.words[1] for shown in shown_commands() if shown.words[0] == "llava-moe" and len(shown.words) > 1}
    assert {
        "train",
        "data",
        "plan",
        "eval",
        "chat",
        "compare",
        "compose",
        "export",
        "analyze",
        "reproduce",
        "ls",
        "doctor",
    } <= names


def test_every_command_in_the_documentation_is_composed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = write_shown_files(tmp_path)
    assert len(shown) >= 2
    wrong = []
    for command in (one for one in shown_commands() if one.is_ours):
        place, words = command.place, command.words
        name = words[1] if words[0] == "llava-moe" else "train"
        assert name in COMMANDS, place
        if name in PLAIN or len(words) == 2:  # alone: the demo, or a list of what there is
            continue
        if name == "data" and words[2] not in DATA_COMMANDS:
            wrong.append(f"{place}: {words[2]} is no command of data")
            continue
        status = composed(words)
        errors = capfd.readouterr().err
        if status != 0:
            wrong.append(f"{place}: {errors}")
    assert not wrong, "\n".join(wrong)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*shown}


def test_every_record_in_the_documentation_is_read(tmp_path: Path) -> None:
    num_read = 0
    for page in PAGES:
        for block in re.findall(r"```json\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.splitlines():
                num_read += 1
                path = tmp_path / f"{num_read}.jsonl"
                path.write_text(line + "\n")
                (entry,) = open_records(Source("mine", "general", str(path)), tmp_path / "cache").read(0, 1)
                assert isinstance(entry.content, Conversation), line
                assert entry.content.images and {*entry.content.images} <= {"7.jpg", "8.jpg"}, line
                check_images(entry.content)
    assert num_read >= 3
