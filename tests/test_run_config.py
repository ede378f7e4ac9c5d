"""The typed configuration of a run: it has a field for each setting, and reads what an earlier release wrote."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from llava_moe.assemble import read_config
from llava_moe.config.config_folder import config_folder
from llava_moe.errors import UserError
from llava_moe.run_config import (
    DataConfig,
    EvalConfig,
    LogConfig,
    ModelConfig,
    ParallelConfig,
    RunConfig,
    StageConfig,
    TrainConfig,
)
from llava_moe.train.folder import AS_BEFORE
from tests.old_runs import OLD_RUNS

# Settings that only lend their value to others, which hold it when the configuration is typed.
LENT = {"conflict", "value_range", "stage.demo", "stage.without_adapter"}
SECTIONS: dict[str, tuple[type, str | None]] = {
    "data": (DataConfig, "data/mine"),
    "model": (ModelConfig, "model/tiny"),
    "stage": (StageConfig, "stage/instruct"),
    "parallel": (ParallelConfig, "parallel/auto"),
    "train": (TrainConfig, None),
    "log": (LogConfig, None),
    "eval": (EvalConfig, None),
}


def read(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((config_folder() / f"{name}.yaml").read_text(encoding="utf-8")))


def named(kind: type) -> set[str]:
    return {one.name for one in fields(kind)}


@pytest.mark.parametrize("section", SECTIONS)
def test_each_setting_of_a_section_is_a_field_and_each_field_a_setting(section: str) -> None:
    kind, group = SECTIONS[section]
    keys = {*read("train").get(section, {})}
    if group is not None:
        content = read(group)
        keys |= {*content.get(section, content)}
    assert named(kind) == {key for key in keys if f"{section}.{key}" not in LENT}


def test_each_setting_at_the_top_is_a_field_and_each_field_a_setting() -> None:
    keys = {*read("train"), "data", "model", "stage", "parallel", "adapter"} - {"defaults", "hydra"} - LENT
    assert named(RunConfig) == keys | {"plain"}


def test_what_an_earlier_release_did_without_a_word_is_the_default() -> None:
    found = {f"data.{one.name}": one.default for one in fields(DataConfig)}
    assert {key: found[key] for key in AS_BEFORE} == AS_BEFORE


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_an_old_run_is_read_as_it_was_written(name: str) -> None:
    run = OLD_RUNS / name
    config, written = read_config(run), yaml.safe_load((run / "config.yaml").read_text())
    assert config.plain == written
    assert (config.train.max_steps, config.seed) == (written["train"]["max_steps"], written["seed"])
    assert config.adapter == written["adapter"] and config.trains_adapter
    assert [*config.data.sources] == [*written["data"]["sources"]]


@pytest.mark.parametrize("section", ["log", "eval", "parallel", "train", "stage", "data", "model"])
@pytest.mark.parametrize("value", [3, "text", [1]])
def test_a_section_of_another_kind_is_told_with_the_file(section: str, value: object, tmp_path: Path) -> None:
    written = yaml.safe_load((OLD_RUNS / "finished" / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written | {section: value}))
    with pytest.raises(UserError, match=rf"config.yaml has another shape than it was written in \({section}"):
        read_config(tmp_path)


def test_a_batch_size_that_every_run_wrote_is_not_made_up(tmp_path: Path) -> None:
    written = yaml.safe_load((OLD_RUNS / "finished" / "config.yaml").read_text())
    del written["train"]["global_batch_size"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    with pytest.raises(UserError, match=r"config.yaml has another shape .*global_batch_size"):
        read_config(tmp_path)


def test_a_changed_configuration_leaves_the_first_and_its_plain_form(tmp_path: Path) -> None:
    config = read_config(OLD_RUNS / "finished")
    changed = config.changed(init_from="elsewhere", seed=7)
    assert (changed.init_from, changed.seed, changed.plain["seed"]) == ("elsewhere", 7, 7)
    assert config.plain["seed"] == config.seed != 7
    with pytest.raises(FrozenInstanceError):
        config.seed = 8  # type: ignore[misc]
