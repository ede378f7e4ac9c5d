"""On quadratic losses the effect of a step has a closed form: first order and exact are held against it.

L_x(t) = |t - c_x|^2 / 2 has gradient t - c_x, and a step of length s along the unit vector u lowers it by
s u.(t - c_x) - s^2 / 2, of which the first order is the first term.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from llava_moe.analyze import exact_steps, gradients
from llava_moe.analyze.exact_steps import Steps, exact_effects
from llava_moe.analyze.gradients import gram_matrices, record_gradients
from llava_moe.analyze.interference import first_order_effects, measure
from llava_moe.analyze.parts import Parameters, Part
from llava_moe.analyze.pieces import Pieces
from llava_moe.eval.ranks import ALONE

group_of = np.array([0] * 6 + [1] * 6)
SIZE = 0.25


class Quadratic:
    """Stands for the model and its records: one parameter in two parts, one centre a record."""

    def __init__(self) -> None:
        generator = np.random.default_rng(1)
        self.centers = np.array([[1.0, 0.5, 0.0, 2.0], [0.2, -1.0, 1.0, 1.0]])[group_of]
        self.centers += 0.3 * generator.normal(size=self.centers.shape)
        self.first = nn.Parameter(torch.zeros(3))
        self.second = nn.Parameter(torch.full((1,), 0.5))
        parts = (Part(0, "q_proj", "A"), Part(0, "q_proj", "B"))
        self.parameters = Parameters(("first", "second"), (self.first, self.second), parts)
        self.examples = [SimpleNamespace(key=f"{place:064d}") for place in range(len(group_of))]

    def row(self, places: list[int]) -> list[int]:
        return places

    def losses_S(self, _assembled: Any, places: list[int]) -> torch.Tensor:
        theta = torch.cat([self.first, self.second]).double()
        centers = torch.from_numpy(self.centers[list(places)])
        return (0.5 * (theta - centers).square().sum(-1)).float()


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Quadratic:
    toy = Quadratic()
    for module in (gradients, exact_steps):
        monkeypatch.setattr(module, "example_losses_S", toy.losses_S)
    return toy


def measured(toy: Quadratic, folder: Any, scope: str = "all") -> tuple[dict[Part, np.ndarray], np.ndarray]:
    """The products of gradients by part, and the exact effects of a step along all or along ``B`` alone."""
    records, console = cast(Any, toy), Console(quiet=True)
    pieces = Pieces(folder, "interference", {"toy": 1})
    found = record_gradients(cast(Any, None), toy.parameters, records, pieces, ALONE, console)
    numbers = (0, 1) if scope == "all" else (1,)
    places = tuple(range(len(group_of)))
    steps = Steps(places, (places[:5], places[5:]), {(cast(Any, scope), scope): numbers}, SIZE)
    effects = exact_effects(cast(Any, None), found, records, steps, pieces, ALONE, console)
    return gram_matrices(found, ALONE, console), effects[cast(Any, scope), scope]


def test_the_first_order_is_the_product_with_the_normalized_gradient(toy: Quadratic, tmp_path: Any) -> None:
    grams, _ = measured(toy, tmp_path)
    pulls = np.array([0, 0, 0, 0.5]) - toy.centers
    expected = pulls @ (pulls / np.linalg.norm(pulls, axis=1, keepdims=True)).T
    np.testing.assert_allclose(first_order_effects(cast(np.ndarray, sum(grams.values()))), expected, rtol=1e-5)
    of_b = pulls[:, 3:] @ np.sign(pulls[:, 3:]).T
    np.testing.assert_allclose(first_order_effects(grams[toy.parameters.parts[1]]), of_b, rtol=1e-5)


@pytest.mark.parametrize("scope", ["all", "side"])
def test_the_exact_effect_is_the_closed_form(toy: Quadratic, tmp_path: Any, scope: str) -> None:
    _, effects = measured(toy, tmp_path, scope)
    pulls = np.array([0, 0, 0, 0.5]) - toy.centers
    steps = pulls.copy() if scope == "all" else pulls * np.array([0, 0, 0, 1])
    steps = SIZE * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    np.testing.assert_allclose(effects, pulls @ steps.T - SIZE**2 / 2, atol=2e-6)


def test_the_exact_matrix_is_the_closed_form(toy: Quadratic, tmp_path: Any) -> None:
    """Row i, column j: the mean fall over both groups' records, the record's own step left out, by the diagonal's."""
    _, effects = measured(toy, tmp_path)
    pulls = np.array([0, 0, 0, 0.5]) - toy.centers
    unit = pulls / np.linalg.norm(pulls, axis=1, keepdims=True)
    falls = np.zeros((2, 2))
    for i in range(2):
        for j in range(2):
            pairs = [(x, y) for x in np.flatnonzero(group_of == i) for y in np.flatnonzero(group_of == j) if x != y]
            falls[i, j] = np.mean([SIZE * unit[y] @ pulls[x] - SIZE**2 / 2 for x, y in pairs])
    found = measure(effects, group_of)
    np.testing.assert_allclose(found.effect, falls, atol=2e-6)
    np.testing.assert_allclose(found.ratio_of_means, falls / np.diagonal(falls)[:, None], rtol=1e-4)


def test_parameters_are_bit_for_bit_as_before(toy: Quadratic, tmp_path: Any) -> None:
    before = [tensor.detach().clone() for tensor in toy.parameters.tensors]
    measured(toy, tmp_path)
    assert all(torch.equal(one, tensor) for one, tensor in zip(before, toy.parameters.tensors, strict=True))
