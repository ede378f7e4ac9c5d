"""``llava-moe data stats``: what it counts is what a run of the same words then trains on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_moe.cli import run
from llava_moe.config.as_typed import as_typed
from llava_moe.config.hydra_words import prepare_override
from llava_moe.data.mixture import Mixture

Refused = Callable[..., str]


@pytest.fixture
def mixed_words(tiny_words: list[str], tmp_path: Path, own_data: Path) -> list[str]:
    """Three sources in two domains: one repeated, one capped, one of texts alone with a record that is too long."""
    turns = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "three bars"}]
    texts = [{"id": f"t{number}", "conversations": turns} for number in range(9)]
    long = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "three bars " * 300}]
    (tmp_path / "texts.json").write_text(json.dumps([*texts, {"id": "long", "conversations": long}]))
    images = f"path: {own_data / 'train.json'}, images: {own_data}"
    return [
        *tiny_words,
        "data.sources.mine.repeats=1.4",
        f"data.sources.capped={{domain: other, format: auto, {images}, cap: 11}}",
        f"data.sources.texts={{domain: other, format: auto, path: {tmp_path / 'texts.json'}}}",
        "train.max_steps=null",
        "train.epochs=1",
    ]


def stats_of(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    [stage] = json.loads((folder / "stats.json").read_text())["stages"]
    return {(group["kind"], group["name"]): group for group in stage["groups"]}


@pytest.mark.parametrize(
    "mixture",
    [
        [],
        ["data.epoch_samples=40", "data.weights=tokens", "data.sources.capped.weight=2"],
        ["data.epoch_samples=45", "data.weights=temperature", "data.temperature=2", "train.epochs=2"],
    ],
    ids=["repeats", "tokens", "temperature"],
)
def test_the_ledger_of_a_trained_run_sums_to_the_account(
    mixed_words: list[str], mixture: list[str], tmp_path: Path
) -> None:
    words = [*mixed_words, *mixture, "adapter=lora", "adapter.r=2"]
    assert run(["data", "stats", *words, "out=account"]) == 0
    assert run(["train", *words, "out=run"]) == 0
    samples: Counter[str] = Counter()
    supervised: Counter[str] = Counter()
    weights: Counter[str] = Counter()
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for step in steps:
        for domain, ledger in step["domains"].items():
            samples[domain] += ledger["samples"]
            supervised[domain] += ledger["supervised_tokens"]
            weights[domain] += ledger["supervised_tokens"] / step["supervised_tokens"]
    groups = stats_of(tmp_path / "account")
    for domain in ("mine", "other"):
        training = groups["domain", domain]["training"]
        assert training["tally"]["samples"] == samples[domain]
        assert training["tally"]["supervised_tokens"] == supervised[domain]
        assert training["of_loss"] == pytest.approx(weights[domain] / len(steps))
    total = groups["all", "all"]["training"]["tally"]
    assert total["tokens"] == sum(step["tokens"] for step in steps)
    assert total["samples"] == sum(step["samples"] for step in steps)
    assert groups["source", "texts"]["records"]["left_out"] == {"too_long": 1}


def test_the_tables_the_files_and_the_next_command_are_named(
    mixed_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run(["data", "stats", *mixed_words]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    [folder] = (tmp_path / "stats").iterdir()
    assert folder.name.startswith("mix_general-")
    assert sorted(path.name for path in folder.iterdir()) == ["stats.html", "stats.json"]
    assert f"page: {folder.relative_to(tmp_path) / 'stats.html'}" in printed.out
    tables, _, after = printed.out.partition("\npage: ")
    assert max(map(len, map(str.rstrip, tables.split("\n")))) <= 60
    for words in ("Shares of an epoch", "too_long", "1.4 x 48", "  capped", "11", "steps of 8 samples", "packing:"):
        assert words in tables, words
    assert "\x1b" not in printed.out
    assert "llava-moe data preview exp=mix_general scale=demo model=tiny" in after
    assert "path=" in after and "++" not in after and "out=" not in after


@pytest.mark.parametrize("command", [["data", "stats"], ["plan", "device=cpu"]], ids=["stats", "plan"])
def test_a_source_of_which_an_epoch_takes_nothing_is_told(
    command: list[str], mixed_words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = "texts: an epoch takes none of its 9 records: raise its repeats"
    texts = next(word for word in mixed_words if word.startswith("data.sources.texts="))
    words = [word for word in mixed_words if word != texts]
    assert run([*command, *words, texts.replace("{", "{repeats: 0.01, ")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("takes none of its") == 1 and told in shown
    assert run([*command, *words, texts]) == 0
    assert "takes none of its" not in capsys.readouterr().out


def test_too_many_bad_records_are_told_as_training_would(
    mixed_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str], refused: Refused
) -> None:
    records = json.loads((tmp_path / "texts.json").read_text())
    (tmp_path / "texts.json").write_text(json.dumps([{"id": "bad"}, *records]))
    words = [*mixed_words, "data.max_bad_share=0.05"]
    assert run(["data", "stats", *words, "out=a folder, with = signs"]) == 0
    assert "texts: 1 of 11 records are bad, more than data.max_bad_share=0.05" in capfd.readouterr().out
    assert (tmp_path / "a folder, with = signs" / "stats.html").is_file()
    assert "1 of 11 records are bad" in refused("train", *words, "adapter=lora", "out=run")


def test_two_stages_of_the_demo_are_counted_and_previewed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert run(["data", "stats"]) == 0
    printed = capsys.readouterr().out
    assert "demo 1-pretrain" in printed and "demo 2-instruct" in printed
    assert printed.endswith("  llava-moe data preview\n  llava-moe plan\n  llava-moe train\n")
    assert run(["data", "preview", "rows=1"]) == 0
    printed = capsys.readouterr().out
    assert "demo 1-pretrain" in printed and "demo 2-instruct" in printed and "USER: [image 1: 64 tokens]↵" in printed
    [folder] = (tmp_path / "stats").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["preview.html", "stats.html", "stats.json"]
    assert (folder / "preview.html").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["epochs=0"], "epochs=0: give a whole number of at least 1"),
        (["ranks=none"], "ranks=none: give a whole number"),
        (["epoch=1"], "unknown key epoch (did you mean epochs?)"),
        (["seeds=1"], "unknown key seeds (did you mean seed?)"),
        (["zzz=1"], "unknown key zzz"),
        (["train.max_step=3"], "did you mean train.max_steps?"),
        (["path=nowhere.json"], "nowhere.json"),
        (["data.epoch_samples=9", "data.sources.mine.weight=0"], "weight above 0"),
    ],
)
def test_a_mistake_is_one_line(tiny_words: list[str], refused: Refused, words: list[str], told: str) -> None:
    assert told in refused("data", "stats", *tiny_words, *words)


def test_a_folder_that_cannot_be_written_is_one_line(tiny_words: list[str], tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "taken").write_text("a file")
    assert "taken is there already and is no folder" in refused("data", "stats", *tiny_words, "out=taken")


def test_ctrl_c_leaves_no_half_written_file(
    tiny_words: list[str], tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Mixture, "plan", interrupted)
    assert "interrupted" in refused("data", "stats", *tiny_words, "out=here", status=130)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(
    "text", ["plain", "a 'b' c", "back\\slash\\", "${HOME}", "\\${x}", "x\\'y", "a=b, c", "''", "é 😀"]
)
def test_words_are_told_as_they_were_typed(text: str) -> None:
    assert as_typed(prepare_override(f"path={text}")) == f"path={text}"
    assert as_typed(prepare_override(f"data.sources.x.path={text}")) == f"data.sources.x.path={text}"
    assert as_typed(prepare_override(f"+exp={text}")) == f"exp={text}"


@pytest.mark.parametrize("command", ["stats", "preview"])
def test_ones_own_data_is_shown_without_the_demos_first_stage(
    command: str, tiny_words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in tiny_words if word.partition("=")[0] not in ("exp", "scale")]
    assert run(["data", command, *words, "out=seen"]) == 0
    told = capsys.readouterr().out
    assert "1-pretrain reads data that ship with llava-moe alone: they are not looked at" in told
    assert "demo 2-instruct" in told and "demo 1-pretrain" not in told
    assert "general" not in told
