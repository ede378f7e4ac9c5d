"""Words rewritten for Hydra mean what they meant as they were typed."""

from __future__ import annotations

import pytest

from llava_moe.config.hydra_words import prepare_override


def test_a_path_in_the_home_folder_may_be_written_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a b")
    for key in ("out", "run", "path", "images", "init_from", "model.path", "model.peft", "benchmark_paths.pope"):
        assert prepare_override(f"{key}=~/x").endswith("='/home/a b/x'"), key
    assert prepare_override("prompt=~/x") == "prompt='~/x'"


def test_exp_may_be_written_with_a_plus() -> None:
    assert prepare_override("+exp=mix_doc") == prepare_override("exp=mix_doc") == "exp=mix_doc"
    assert prepare_override("--config-dir=/a b") == "--config-dir=/a b"
