"""Matching of module names, in bounded time."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.core.targets import matching
from llava_moe.errors import UserError

NAMES = [f"model.layers.{layer}.{leaf}" for layer in range(12) for leaf in ("self_attn.q_proj", "mlp.up_proj", "norm")]
SLOW = [
    r"(.*)*(.*)*(.*)*(.*)*x",
    r"(a+)+b|([a-z._0-9]+)+!",
    r"((([a-z_.0-9]*)*)*)*#",
    r"(.|..|...|....)*(.|..|...)*(.|..)*Z",
    r"(?:(?:\w|\.)+)+@",
]


@given(st.lists(st.sampled_from(["q_proj", "mlp.up_proj", "layers.1.norm", "proj", "model.layers.2.norm", ""])))
def test_ends_of_names_match_at_dots_alone(targets: list[str]) -> None:
    expected = [name for name in NAMES if any(name == one or name.endswith(f".{one}") for one in targets)]
    assert matching(NAMES, targets) == expected


@pytest.mark.parametrize("expression", [r".*\.(q|up)_proj", r"model\.layers\.[0-3]\..*", r"norm", r".*\d{2}\..*norm"])
def test_an_expression_matches_as_re_does(expression: str) -> None:
    assert matching(NAMES, expression) == [name for name in NAMES if re.fullmatch(expression, name)]


@pytest.mark.parametrize("expression", SLOW)
def test_an_expression_that_never_ends_is_refused_in_time(expression: str) -> None:
    begin = time.process_time()
    try:
        found = matching(NAMES * 8, expression)
    except UserError as error:
        assert "takes too long" in str(error) and "\n" not in str(error)
    else:
        assert found == []  # a better matcher is no fault
    assert time.process_time() - begin < 1


def test_what_no_matcher_ends_is_refused() -> None:
    with pytest.raises(UserError, match="takes too long to match model") as info:
        matching(NAMES, r"(?:.|.|.)*[A-Z]")
    assert "\n" not in str(info.value)


NO_EXPRESSIONS = ["q_proj[", "(" * 5000 + ")" * 5000, "*", "a" * 30_000, "(?P<1>a)", "a{99999999999}"]


@pytest.mark.parametrize("expression", NO_EXPRESSIONS, ids=range(len(NO_EXPRESSIONS)))
def test_what_is_no_expression_is_one_line(expression: str) -> None:
    with pytest.raises(UserError) as info:
        matching(NAMES, expression)
    assert "\n" not in str(info.value) and len(str(info.value)) < 400


def test_a_million_targets_cost_no_more_than_reading_them(build_llama: Any) -> None:
    targets = [f"t{number}" for number in range(1_000_000)]
    target_model, begin = TargetModel.of(build_llama()), time.process_time()
    with pytest.raises(UserError, match="match no linear layer") as info:
        target_model.select(targets)
    assert time.process_time() - begin < 3 and len(str(info.value)) < 500
