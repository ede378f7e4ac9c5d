"""Passwords and tokens are found where they stand, and leave nothing of themselves in what is shown or kept."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.cli import run
from llava_moe.text.secrets import HIDDEN, has_secret, without_secrets

TOKEN = "hf_" + "aB3" * 12
SECRET = {
    "http://me:pa55word@host/v1": "pa55word",
    "http://me:p@ss@host/v1?api_key=k3y": "p@ss",
    "https://host/v1?a=b&API-Key=k3y#x": "k3y",
    "https://host/data.json?X-Amz-Credential=k3y&X-Amz-Signature=s1g": "s1g",
    "https://host/#access_token=k3y": "k3y",
    "https://ghp_012345678901234567890123456789012345@host/x": "ghp_",
    "https://abcdefghijklmnopqrst@host/x": "abcdefghijklmnopqrst",
    "s3://me:k3y@bucket/x": "k3y",
    f"model.path={TOKEN}": TOKEN,
    f"{{a: http://h/x, b: 'http://h?token={TOKEN}'}}": TOKEN,
    "Authorization: Bearer abcdefgh1234": "abcdefgh1234",
    "{'authorization': 'Basic YWxhZGRpbjpvcGVu'}": "YWxhZGRpbjpvcGVu",
    "sk-proj-abcdefghijklmnopqrstuv": "abcdefghijklmnopqrstuv",
}
PLAIN = (
    *("hf://datasets/lmms-lab/ChartQA@main/data/*.parquet", "http://localhost:8000/v1", "sftp://me@host/x"),
    *(
        "runs/sk-learn-experiments-2024-01-02-of-the-third-kind",
        "file:///a:b@c",
        "a:b@c",
        "https://h/?monkey=1&keyword=x",
    ),
    *("hf_hub", "the key=value of a token", "bearer of news", "m3it/task_name@2.1", "https://h/a?split=train&seed=1"),
)


def test_a_secret_is_found_and_nothing_of_it_is_left() -> None:
    for text, secret in SECRET.items():
        shown = without_secrets(text)
        assert has_secret(text) and secret not in shown and HIDDEN in shown, text
        assert without_secrets(shown) == shown
    assert without_secrets("http://me:p@ss@host/v1?api_key=k3y") == f"http://me:{HIDDEN}@host/v1?api_key={HIDDEN}"


def test_what_only_looks_like_a_secret_stays() -> None:
    for text in PLAIN:
        assert without_secrets(text) == text and not has_secret(text)


@given(st.text(alphabet="ab:/@?&#=;._-'\" \n"))
def test_the_rest_of_a_text_stays_and_hiding_twice_is_hiding_once(text: str) -> None:
    once = without_secrets(text)
    assert without_secrets(once) == once
    if "://" not in text:
        assert once == text


def test_a_long_text_takes_no_time() -> None:
    began = time.monotonic()
    for text in ("://a", "?a", "?-", "://?__=", "authorization ", "hf_", "a:b@", "bearer "):
        without_secrets("://" + text * 50_000)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("command", ["train", "eval", "chat", "data", "compose", "export", "plan", "ls", "doctor"])
def test_no_command_takes_a_word_with_a_secret(
    command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = ["check"] if command == "data" else []
    for text, secret in SECRET.items():
        assert run([command, *first, f"+x={text}"]) == 2
        told = capsys.readouterr()
        assert secret not in told.err + told.out and told.err.count("\n") == 1
        assert "holds a password or an access token" in told.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("model.endpoint=http://me:pa55word@host/v1", "model.endpoint holds .* LLAVA_MOE_API_KEY"),
        ("judge.endpoint=https://host/v1?key=pa55word", "judge.endpoint holds .* LLAVA_MOE_API_KEY"),
        (f"model.path=hf://me/{TOKEN}", "model.path holds .* HF_TOKEN"),
        ("path=https://host/x.json?sig=pa55word", "path holds .* fetch the file first"),
        ("log.wandb=https://me:pa55word@host", "log.wandb holds .* WANDB_API_KEY"),
        ("https://me:pa55word@host", r"https://me:\[hidden\]@host holds"),
    ],
)
def test_the_line_says_which_word_and_where_the_key_goes(
    word: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", word]) == 2
    line = capsys.readouterr().err
    assert re.search(told, line) and "pa55word" not in line and TOKEN not in line


def test_a_secret_out_of_a_file_or_the_environment_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHERE", "https://me:pa55word@host/x.json")
    (tmp_path / "own" / "data").mkdir(parents=True)
    source = "{domain: mine, format: llava, path: 'https://me:pa55word@host/x.json'}"
    (tmp_path / "own" / "data" / "ours.yaml").write_text(f"defaults: [mine]\nsources: {{mine: {source}}}\n")
    for words in (["data=ours", "--config-dir", "own"], ["data=mine", "data.sources.mine.path=${oc.env:WHERE}"]):
        assert run(["train", *words]) == 2
        line = capsys.readouterr().err
        assert "data.sources.mine.path holds a password" in line
        assert "pa55word" not in line and line.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["ours.yaml"]
