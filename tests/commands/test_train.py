"""``llava-moe train`` on a tiny model and real images, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.cli import run


def records_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_every_file_of_the_interface(tiny_words: list[str], tmp_path: Path) -> None:
    assert run(["train", *tiny_words, f"out={tmp_path / 'run'}"]) == 0
    folder = tmp_path / "run"
    for name in ("config.yaml", "environment.json", "log.jsonl", "checkpoints/last", "report.html"):
        assert (folder / name).exists(), name
    checkpoint = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    for name in ("COMPLETE", "state.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        assert (checkpoint / name).exists(), name
    assert (checkpoint / "projector.safetensors").exists()
    records = records_of(folder)
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    wanted = set(
        "stage step epoch loss load_balance_loss objective learning_rate grad_norm seconds samples tokens "
        "supervised_tokens padding_share tokens_per_second supervised_tokens_per_second peak_memory_bytes "
        "sample_hash domains experts".split()
    )
    assert wanted <= set(records[0])
    assert records[0]["samples"] == 8
