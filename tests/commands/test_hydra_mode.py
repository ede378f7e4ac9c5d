"""One run or several: ``-m`` says it, or ``hydra.mode`` where words or a file of one's own set it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import run_composed


def seeds_run(*words: str) -> list[int]:
    seeds: list[int] = []

    def job(config: DictConfig, _: list[str]) -> int:
        assert HydraConfig.get().mode is not None
        seeds.append(config.seed)
        return 0

    assert run_composed("eval", [*words], job) == 0
    return seeds


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "data").mkdir(parents=True)
    text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n"
    (tmp_path / "own" / "data" / "several.yaml").write_text(text)
    return tmp_path / "own"


def test_words_and_a_file_of_ones_own_set_the_mode(own: Path) -> None:
    assert seeds_run("seed=1") == [1]
    assert seeds_run("seed=1,2", "-m") == seeds_run("seed=1,2", "hydra.mode=MULTIRUN") == [1, 2]
    assert seeds_run("seed=1,2", "--config-dir", str(own), "+data=several") == [1, 2]


def test_no_file_of_ours_sets_the_mode() -> None:
    for path in config_folder().rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        assert "hydra.mode" not in text and "\n  mode:" not in text.partition("hydra:")[2], path


def test_a_configuration_of_our_files_is_composed_once(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    composed: list[int] = []
    load = ConfigLoaderImpl.load_configuration

    def counted(self: ConfigLoaderImpl, *a: Any, **k: Any) -> DictConfig:
        composed.append(1)
        return load(self, *a, **k)

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    assert issubclass(ConfigLoaderImpl, ConfigLoader)
    assert seeds_run("seed=3") == [3] and len(composed) == 1
