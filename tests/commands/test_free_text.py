"""Odd characters in every place that takes free text: paths come through as they were typed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from llava_moe.cli import run
from llava_moe.config.hydra_compose import as_yaml
from llava_moe.config.hydra_words import quote

Refused = Callable[..., str]


ODD_NAME = """it's "a" test, b=c ${d} \\${e} [x] {y} (z) #1 ü—字 \\"""
TEXTS = st.text(
    st.one_of(st.sampled_from("'\"\\${},= :a[]()\n\t#"), st.characters(exclude_categories=["Cs"])), min_size=1
)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
@example(ODD_NAME)
@example("'quoted'")
@example("a\x85b")
@example("\\${x}")
def test_any_text_comes_through_quoting_interpolation_and_the_written_configuration(text: str) -> None:
    value = OverridesParser.create().parse_override(f"path={quote(text)}").value()
    config = OmegaConf.create({"path": value, "data": {"path": "${path}"}})
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    assert plain == {"path": text, "data": {"path": text}}
    assert yaml.safe_load(as_yaml(plain)) == plain


def test_odd_characters_in_every_path_train_resume_and_start_another_run(
    tiny_words: list[str], own_data: Path, tmp_path: Path, refused: Refused
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1"]
    assert run([*words, f"out={odd / 'run'}"]) == 0
    config = yaml.safe_load((odd / "run" / "config.yaml").read_text())
    assert config["data"]["sources"]["mine"]["path"] == str(odd / "train.json")
    assert run([*words, f"out={odd / 'run'}"]) == 0
    assert run([*words, f"out={odd / 'second'}", f"init_from={odd / 'run'}"]) == 0
    for command in (["eval"], ["train", *tiny_words]):
        key = "run" if command == ["eval"] else "init_from"
        assert f"{odd / 'nowhere'} does not exist" in refused(*command, f"{key}={odd / 'nowhere'}")


def test_several_runs_of_one_command_take_odd_characters_too(
    tiny_words: list[str], own_data: Path, tmp_path: Path
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1", "-m", "seed=0,1"]
    assert run(words) == 0
    assert len(list(Path("runs").glob("mix_general-*/finished.json"))) == 2


def test_odd_characters_reach_every_stage_of_an_experiment(
    tiny_words: list[str], two_stages: list[str], own_data: Path, tmp_path: Path
) -> None:
    odd = tmp_path / ODD_NAME
    shutil.copytree(own_data, odd)
    words = ["train", *tiny_words, *two_stages, f"path={odd / 'train.json'}", f"images={odd}", "train.max_steps=1"]
    assert run([*words, f"out={odd / 'run'}"]) == 0
    for name in ("1-a", "2-b"):
        assert (odd / "run" / name / "finished.json").is_file()
        config = yaml.safe_load((odd / "run" / name / "config.yaml").read_text())
        assert config["data"]["sources"]["mine"]["path"] == str(odd / "train.json")
    assert config["init_from"] == str(odd / "run" / "1-a")


def test_a_name_that_is_not_unicode_is_refused(refused: Refused, tiny_words: list[str]) -> None:
    assert "is not UTF-8 text" in refused("train", *tiny_words, "path=train\udcff.json")
