"""What an export says of its maker's folders: their names, never the way there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter's settings in which the experts of a composition are named, not located."""
    experts = settings.get("experts")
    if not isinstance(experts, list | tuple):
        return dict(settings)
    return {**settings, "experts": [_named(expert) for expert in experts]}


def _named(expert: Any) -> Any:
    if isinstance(expert, Mapping):
        return {**expert, "origin": expert["name"]}
    return Path(expert).name if isinstance(expert, str) else expert
