"""``llava-moe data preview``: the rows that training of the same words begins with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_moe.cli import run

Refused = Callable[..., str]


def test_the_first_rows_are_those_that_training_logs(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The samples previewed of step 0 are the samples whose tokens the run's first step logs."""
    words = [*tiny_words, "train.max_steps=1"]
    assert run(["data", "preview", *words, "rows=9", "shown=9", "out=look"]) == 0
    printed = capsys.readouterr().out
    assert run(["train", *words, "adapter=lora", "adapter.r=2", "out=run"]) == 0
    [step] = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first = printed.partition("epoch 0, step 1,")[0]
    accounts = re.findall(r"^([\d,]+) of 256 tokens: .* ([\d,]+) supervised$", first, re.MULTILINE)
    assert sum(int(tokens) for tokens, _ in accounts) == step["tokens"]
    assert sum(int(supervised) for _, supervised in accounts) == step["supervised_tokens"]
    assert first.count("▌ mine: r") == step["samples"] == 8


def test_what_is_shown_is_what_was_asked_for(
    tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["data", "preview", *tiny_words, "rows=5", "shown=2", "step=1", "epoch=1", "ranks=2"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.count("epoch 1, step ") == 2 and "epoch 1, step 1, row 1 of " in printed.out
    assert "3 rows more are on the page; shown=5 prints all" in printed.out
    assert "«" in printed.out and "\x1b" not in printed.out
    shown, _, after = printed.out.partition("\npage: ")
    assert max(map(len, shown.split("\n"))) <= 60
    [page] = (tmp_path / "stats").glob("*/preview.html")
    assert str(page.relative_to(tmp_path)) in after
    text = page.read_text()
    assert text.count(" of 256 tokens:") == 5 and text.count('<img src="data:image/webp') > 5
    assert "llava-moe data stats exp=mix_general" in after


def test_colors_are_left_out_where_no_color_is_wanted(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert run(["data", "preview", *tiny_words, "rows=1"]) == 0
    colored = capsys.readouterr().out
    assert "▀" in colored and "\x1b[1;32m" in colored and "«" not in colored
    monkeypatch.setenv("NO_COLOR", "1")
    assert run(["data", "preview", *tiny_words, "rows=1"]) == 0
    plain = capsys.readouterr().out
    assert "▀" not in plain and "«" in plain and "[1;32m" not in plain


def test_a_record_that_cannot_be_decoded_is_shown_as_a_hole(
    tiny_words: list[str], own_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for number in range(0, 48, 2):
        if (own_data / f"{number}.png").is_file():
            (folder / f"{number}.png").write_bytes((own_data / f"{number}.png").read_bytes())
    words = [word for word in tiny_words if not word.startswith("images=")]
    assert run(["data", "preview", *words, f"images={folder}", "rows=2", "shown=2", "out=look"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"hole of \d+ padding tokens, nothing is learned: image_missing, no", printed)
    assert "idle" in printed and "<pad>" not in printed
    assert "image_missing" in (tmp_path / "look" / "preview.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["rows=0"], "rows=0: give a whole number of at least 1"),
        (["step=6"], "step=6: an epoch of mix_general has 6 steps, 0 to 5"),
        (["epochs=1"], "unknown key epochs (did you mean epoch?)"),
        (["row=1"], "unknown key row (did you mean rows?)"),
        (["model.architecture.tokenizer=nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(tiny_words: list[str], refused: Refused, words: list[str], told: str) -> None:
    assert told in refused("data", "preview", *tiny_words, *words)


def test_a_reader_that_closes_the_pipe_leaves_the_page_and_no_trace(tiny_words: list[str], tmp_path: Path) -> None:
    words = [sys.executable, "-m", "llava_moe", "data", "preview", *tiny_words, "rows=9", "shown=9", "out=look"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
    assert (tmp_path / "look" / "preview.html").is_file()
