"""Where what is made once is kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of indexes and converted records: ``LLAVA_MOE_CACHE``, or the user's cache folder."""
    named = os.environ.get("LLAVA_MOE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "llava_moe"
