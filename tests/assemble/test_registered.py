"""Objects of a configuration: a class speaks of its own settings, the configuration adds where they stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llava_moe.adapters import LlavaMole, Lora, MixLora
from llava_moe.assemble import ADAPTERS, from_target
from llava_moe.assemble.registered import settings_named
from llava_moe.errors import UserError

WRONG: list[tuple[type, dict[str, Any], str]] = [
    (Lora, {"r": 0}, "r=0 must be at least 1"),
    (Lora, {"lora_dropout": 1.0}, "lora_dropout=1.0 must be at least 0 and below 1"),
    (LlavaMole, {"num_experts": 0}, "num_experts=0 must be at least 1"),
    (MixLora, {"r": 17}, "r=17 factors cannot be chosen of num_factors=16: lower r"),
]


@pytest.mark.parametrize(("kind", "values", "told"), WRONG)
def test_a_class_names_its_own_setting_and_a_configuration_the_key(
    kind: Callable[..., object], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as alone:
        kind(**values)
    assert str(alone.value) == told
    with pytest.raises(UserError) as configured:
        from_target({"_target_": f"llava_moe.adapters.{kind.__name__}", **values}, ADAPTERS)
    assert str(configured.value) == f"adapter.{told}"


@pytest.mark.parametrize("told", ["init_from=here: its adapter is another", "the disk is full", ""])
def test_what_is_no_setting_of_the_class_stays_as_it_is(told: str) -> None:
    with pytest.raises(UserError) as caught, settings_named(Lora, "adapter"):
        raise UserError(told)
    assert str(caught.value) == told
