"""lmms-eval's plug-in: our models for its tasks, and a folder of tasks that it lacks.

lmms-eval is optional; it finds this package by the entry point group ``lmms_eval.models`` and is imported in
``manifest.py`` and ``model.py`` alone. Written for lmms-eval 0.7.3.
"""

from __future__ import annotations

from pathlib import Path


def task_folder() -> Path:
    """The folder for ``lmms_eval --include_path``."""
    package = Path(__file__).parents[1]
    installed = package / "lmms_tasks"
    return installed if installed.is_dir() else package.parent / "lmms_tasks"
