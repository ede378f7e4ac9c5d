"""The wheel carries configurations, images and base model, and works away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_an_installed_wheel_finds_its_configurations_and_its_demo(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    for name in (
        "llava_moe/configs/train.yaml",
        "llava_moe/demo/images/general.parquet",
        "llava_moe/demo/images/SOURCES.json",
        "llava_moe/demo/base/vision_tower/model.safetensors",
        "llava_moe/demo/base/language_model/tokenizer.json",
        "llava_moe/head.html.j2",
        "llava_moe/page.css.j2",
        "llava_moe/report/page.html.j2",
        "llava_moe/data_recipes/llava_mix665k.py",
        "llava_moe/lmms_tasks/vsr.yaml",
        "llava_moe/lmms_tasks/_shared_yaml",
        "llava_moe/lmms_tasks/named/vsr.jsonl",
    ):
        assert (tmp_path / "site" / name).is_file(), name
    listed = subprocess.run(
        [sys.executable, "-m", "llava_moe", "ls", "exp", "recipe"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, listed.stderr
    assert "mix_general_doc_med" in listed.stdout
    assert "sharegpt4v_pt" in listed.stdout
    # The recipes of the demo's own pictures and base model stay in the checkout.
    assert not (tmp_path / "site" / "llava_moe" / "data_recipes" / "demo_images").exists()
