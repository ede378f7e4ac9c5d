"""lmms-eval finds the plug-in by its entry point; nothing of lmms-eval is needed or imported before it asks."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import llava_moe.lmms
from llava_moe.lmms_eval_plugin import manifest, task_folder

ROOT = Path(__file__).resolve().parents[2]


def test_the_entry_point_names_the_manifest_and_the_manifest_the_class() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {manifest.MODEL_ID: "llava_moe.lmms_eval_plugin.manifest:manifest"}
    assert project["entry-points"]["lmms_eval.models"] == named
    assert not any("lmms" in line for line in project["dependencies"])
    assert not any("lmms" in line for lines in project["optional-dependencies"].values() for line in lines)
    module, _, name = manifest.CLASS_PATH.rpartition(".")
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert name in [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]


def test_reading_the_manifest_imports_neither_lmms_eval_nor_torch() -> None:
    check = (
        "import sys, llava_moe.lmms_eval_plugin, llava_moe.lmms_eval_plugin.manifest; "
        "heavy = {'lmms_eval', 'torch', 'transformers', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_task_folder_is_there_by_its_name_and_by_its_earlier_one() -> None:
    assert (task_folder() / "vsr.yaml").is_file()
    assert llava_moe.lmms.task_folder is task_folder
