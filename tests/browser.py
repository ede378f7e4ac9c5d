"""A real browser for pages, where this machine has one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def draw(page: Path, width: int = 900, height: int = 1600) -> set[tuple[int, ...]]:
    """Draw a page into ``page.png`` beside it and return the colours of the picture."""
    shot = page.with_suffix(".png")
    _browse(page, f"--window-size={width},{height}", "--hide-scrollbars", f"--screenshot={shot}")
    with Image.open(shot) as picture:
        counted = cast(list[tuple[int, tuple[int, ...]]], picture.convert("RGB").getcolors(maxcolors=2**24))
        return {color for _, color in counted}


def document(page: Path, width: int = 900) -> str:
    """What the browser made of a page, after any script in it has run."""
    return _browse(page, f"--window-size={width},1600", "--dump-dom")


def _browse(page: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, *quiet, "--disable-component-update", profile, *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()
