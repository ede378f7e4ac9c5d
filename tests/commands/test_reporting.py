"""The commands that a finished run says next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from llava_moe.commands import reporting
from llava_moe.commands.reporting import chat_with, next_commands
from llava_moe.config.as_typed import told_how_to_go_on
from llava_moe.config.path_mappings import without_implied_data
from llava_moe.errors import StoppedBySignalError
from llava_moe.run_config import DataConfig, RunConfig, StageConfig

EMBEDDED = {"general": {"path": "embedded:general.parquet"}}
MOLE = "llava_moe.adapters.LlavaMole"


def run_folder(folder: Path, **changes: Any) -> Path:
    """A run's folder with a checkpoint, as far as the commands look at it."""
    config: dict[str, Any] = {
        "model": {"architecture": {}, "system": None, "attn_implementation": "auto"},
        "adapter": {"_target_": changes.get("adapter", MOLE)},
        "stage": {
            "template": changes.get("template", "v1"),
            "image_mode": "pad",
            "learning_rates": {"projector": 2e-5},
        },
        "train": {
            "dtype": "fp32",
            "max_length": 8,
            "over_length": "cut",
            "tokens_per_micro_batch": 8,
            "global_batch_size": 1,
        },
        "data": {"sources": {name: {"domain": name, **one} for name, one in changes.get("sources", EMBEDDED).items()}},
        "eval": {"split": None},
        "init_from": changes.get("init_from"),
        "seed": 0,
    }
    checkpoint = folder / "checkpoints" / "step-000001"
    (checkpoint / "adapter").mkdir(parents=True)
    (checkpoint / "COMPLETE").touch()
    (folder / "checkpoints" / "last").write_text(checkpoint.name)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def compared(folder: Path, *words: str) -> list[str]:
    [command] = [one for one in next_commands(folder, True, words) if "to compare" in one]
    return shlex.split(command, comments=True)


OWN = {"mine": {"path": "a.json", "images": None}}


def told_to_compare(folder: Path, *words: str) -> list[str]:
    [command] = [one for one in next_commands(folder, True, words) if one.startswith("llava-moe compare")]
    return shlex.split(command, comments=True)[2:]


def test_a_run_on_ones_own_data_is_compared_by_the_words_that_trained_it(tmp_path: Path) -> None:
    own = ["path=it's here/a.json", "images=my images", "--config-dir", "own"]
    run, lora = (
        run_folder(tmp_path / name, sources=OWN, adapter=f"llava_moe.adapters.{name}") for name in ("LlavaMole", "Lora")
    )
    both = "adapter=[lora,llava_mole]"
    assert told_to_compare(run, *own, "out=runs/x") == [both, *own, "data.held_out=0.1"]
    assert told_to_compare(lora, "data=mix.yaml", "adapter.rank=4") == [both, "data=mix.yaml", "data.held_out=0.1"]
    assert told_to_compare(run, "adapter=ours", "seed=1")[:2] == ["adapter=[lora,ours]", "seed=1"]
    (lines,) = [one for one in next_commands(run, True, own) if "ls benchmark" in one]
    assert "eval benchmarks=[FILE] asks questions of your own" in lines
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["held_out"] = 0.3  # by the file of sources
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert told_to_compare(run, "data=mix.yaml") == [both, "data=mix.yaml"]


def test_a_path_brings_its_data_along_and_no_command_says_so_twice() -> None:
    assert without_implied_data(["seed=1", "path=a.json", "data=mine"]) == ["seed=1", "path=a.json"]
    # An experiment of one's own may choose data of its own, and overrides of the sources stand for themselves.
    for words in (["exp=ours", "path=a.json", "data=mine"], ["data=mine", "data.sources.mine.path=a.json"], ["seed=1"]):
        assert without_implied_data(words) == words


def test_the_run_to_compare_with_is_trained_by_the_same_words(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    assert compared(run, "seed=1", "out=runs/x") == ["llava-moe", "train", "seed=1", "adapter=lora"]
    assert compared(run) == ["llava-moe", "train", "adapter=lora"]


def test_lora_is_compared_with_llava_mole_and_no_setting_of_the_other_adapter_stays(tmp_path: Path) -> None:
    # What the adapter is stands in the run, whether the words or a file of the user's chose it.
    run = run_folder(tmp_path / "run", adapter="llava_moe.adapters.Lora")
    for words in (["seed=1", "adapter=lora", "adapter.rank=4"], ["seed=1"]):
        assert compared(run, *words) == ["llava-moe", "train", "seed=1", "adapter=llava_mole"]


def test_a_start_with_an_adapter_is_left_for_the_start_before_it(tmp_path: Path) -> None:
    first = run_folder(tmp_path / "first")
    (first / "checkpoints" / "step-000001" / "adapter").rmdir()
    second = run_folder(tmp_path / "second", init_from=str(first))
    lonely = run_folder(tmp_path / "lonely")
    for start, kept in ((first, [f"init_from={first}"]), (second, [f"init_from={first}"]), (lonely, [])):
        run = run_folder(tmp_path / f"from {start.name}", init_from=str(start))
        assert compared(run, f"init_from={start}") == ["llava-moe", "train", *kept, "adapter=lora"]


def test_without_the_words_that_trained_no_command_trains_something_else(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    assert not [command for command in next_commands(run, True) if "adapter=" in command]


@pytest.mark.parametrize("has_scores", [False, True])
def test_only_what_was_trained_on_the_embedded_data_is_asked_the_demos_questions(
    tmp_path: Path, has_scores: bool
) -> None:
    own = {"mine": {"path": "train.json", "images": str(tmp_path)}}
    (tmp_path / "a.PNG").touch()
    asked = {name: next_commands(run_folder(tmp_path / name, sources=sources), has_scores, ["exp=x"])
             for name, sources in (("demo", EMBEDDED), ("own", own), ("both", own | EMBEDDED))}  # fmt: skip
    assert asked["demo"][0].startswith(f"llava-moe eval run={tmp_path / 'demo'}")
    for name in ("own", "both"):
        assert not [command for command in asked[name] if command.startswith("llava-moe eval")]
        assert f"image={tmp_path / 'a.PNG'}" in asked[name][0] and "llava-moe ls benchmark" in asked[name][-2]
    captions = next_commands(
        run_folder(tmp_path / "captions", template="plain"), has_scores, ["exp=pretrain_llava_med"]
    )
    assert [shlex.split(command)[1] for command in captions] == ["chat", "train"]
    assert "exp=llava_med" in captions[1]


def test_what_was_stopped_says_the_command_that_goes_on_by_its_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["train", "-m", "adapter=lora,none", "path=my data/a.json"]
    typed = "train -m adapter=lora,none 'path=my data/a.json'"
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}
    cases: tuple[tuple[dict[str, str], str | None], ...] = (
        ({}, f"llava-moe {typed}"),
        (ranks | {"TORCHELASTIC_RUN_ID": "none"}, f"torchrun --nproc-per-node=2 -m llava_moe {typed}"),
        (ranks | {"LLAVA_MOE_LAUNCHER": "scripts/launch.sh"}, f"scripts/launch.sh {typed.removeprefix('train ')}"),
        (
            ranks | {"LLAVA_MOE_LAUNCHER": r"env GPUS=2 my\ scripts/launch.sh"},
            f"env GPUS=2 'my scripts/launch.sh' {typed.removeprefix('train ')}",
        ),
        (ranks | {"LLAVA_MOE_LAUNCHER": "scripts/launch.sh", "RANK": "1"}, None),
        (ranks, None),
    )
    monkeypatch.setattr("sys.argv", ["llava-moe", *words])
    for environment, command in cases:
        with monkeypatch.context() as patched:
            for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "TORCHELASTIC_RUN_ID", "LLAVA_MOE_LAUNCHER"):
                patched.delenv(name, raising=False)
            for name, value in environment.items():
                patched.setenv(name, value)
            with pytest.raises(StoppedBySignalError) as stopped, told_how_to_go_on():
                raise StoppedBySignalError("stopped")
        assert str(stopped.value) == ("stopped" if command is None else f"stopped: {command}")


def test_a_picture_to_ask_about_is_found_without_listing_a_folder_of_millions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    (images / "a").mkdir(parents=True)
    (images / "a" / "b.jpg").touch()
    (images / "list.txt").touch()
    sources = {"mine": {"images": str(images)}}
    stage = StageConfig(template="v1", image_mode="pad", learning_rates={})
    config = cast(RunConfig, SimpleNamespace(stage=stage, data=DataConfig(sources)))
    assert f"image={images / 'a' / 'b.jpg'}" in chat_with(tmp_path, config, "")
    monkeypatch.setattr(reporting, "_MOST_ENTRIES", 3)
    seen = []

    class Folder:
        """One that never ends."""

        def __init__(self, place: str) -> None: ...
        def __enter__(self) -> Iterator[SimpleNamespace]:
            for number in count():
                seen.append(number)
                yield SimpleNamespace(path=f"{number}.png", is_dir=lambda follow_symlinks: False)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Folder)
    assert "image=0.png" in chat_with(tmp_path, config, "")
    assert len(seen) == 3
    monkeypatch.undo()
    sources["mine"]["images"] = str(tmp_path / "gone")
    assert "image=" not in chat_with(tmp_path, config, "")
