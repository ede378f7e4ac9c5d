"""Which values fit a configuration's fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from llava_moe.adapters.core.field_types import first_misfit


@dataclass
class Settings:
    count: int = 1
    share: float = 0.5
    flag: bool = False
    name: str = ""
    maybe: float | None = None
    targets: str | Sequence[str] = ()
    sizes: tuple[int, ...] = ()
    mode: Literal["a", "b"] = "a"
    folder: Path | None = None


@pytest.mark.parametrize(
    "values",
    [
        {
            "count": 3,
            "share": 2,
            "flag": True,
            "name": "x",
            "maybe": None,
            "targets": "a",
            "sizes": (1, 2),
            "mode": "b",
        },
        {"maybe": 1e-3, "targets": ["a", "b"], "sizes": [], "folder": Path("x"), "unknown": object()},
        {},
    ],
)
def test_values_of_their_types_fit(values: dict[str, Any]) -> None:
    assert first_misfit(Settings, values) is None


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("count", 2.0, "count=2.0 must be a whole number"),
        ("count", True, "count=True must be a whole number"),
        ("share", "1", "share='1' must be a number"),
        ("share", math.nan, "share=nan must be a number"),
        ("flag", 1, "flag=1 must be true or false"),
        ("name", None, "name=None must be text"),
        ("maybe", False, "maybe=False must be a number or null"),
        ("targets", [1], "targets=[1] must be text or a list (of text each)"),
        ("sizes", "12", "sizes='12' must be a list (of a whole number each)"),
        ("mode", "c", "mode='c' must be a or b"),
    ],
)
def test_a_value_of_another_type_is_told_with_what_it_must_be(field: str, value: Any, told: str) -> None:
    assert first_misfit(Settings, {"count": 1, field: value}) == told
