"""A training step starts as few kernels as it must, and the host waits for the device as rarely as it can.

``python -m tests.peers.operations`` counts the same for 32 layers. More than these numbers is a regression; who saves
some writes the new ones down, here and in ``docs/measured.md``.
"""

from __future__ import annotations

import pytest

from tests.counting_device import Counts
from tests.peers.operations import METHODS, count_step, stepped

# Of a step of one micro-batch: kernels of each decoder layer, and of all else with the tower's 24 layers.
KERNELS = {"lora": (172, 468), "llava_mole": (219, 548), "mixlora": (547, 540), "mole": (572, 576)}
# transformers looks twice whether images and their places agree; losses and counts, and the norm, are read once a step.
WAITS_OF_A_ROW, WAITS_OF_A_STEP = 2, 2


@pytest.fixture(scope="module", params=METHODS)
def counted(request: pytest.FixtureRequest) -> tuple[str, Counts, Counts]:
    """A method, and steps of it with two and with three decoder layers."""
    return request.param, count_step(request.param, 2, 1), count_step(request.param, 3, 1)


def test_a_decoder_layer_and_all_else_take_so_many_kernels(counted: tuple[str, Counts, Counts]) -> None:
    name, shallow, deep = counted
    layer = deep.kernels - shallow.kernels
    assert (layer, shallow.kernels - 2 * layer) == KERNELS[name], deep.by_name.most_common(20)


def test_the_host_waits_no_more_often_in_a_deeper_model(counted: tuple[str, Counts, Counts]) -> None:
    _, shallow, deep = counted
    assert shallow.waits == WAITS_OF_A_ROW + WAITS_OF_A_STEP, shallow.by_place
    assert deep.waits == shallow.waits, deep.by_place


def test_each_further_micro_batch_waits_for_image_places_alone() -> None:
    assert count_step("mixlora", 1, 3).waits == 3 * WAITS_OF_A_ROW + WAITS_OF_A_STEP


def test_what_is_counted_is_the_step_that_is_trained() -> None:
    outcome, _ = stepped("mixlora", 1, 2, dtype="fp32")
    plain, _ = stepped("mixlora", 1, 2, dtype="fp32", counts=False)
    assert outcome.objective == pytest.approx(plain.objective, rel=1e-6)
    assert outcome.grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)
    assert outcome.sums.flat().tolist() == pytest.approx(plain.sums.flat().tolist(), rel=1e-6)
    assert outcome.expert_tokens is not None and plain.expert_tokens is not None
    assert outcome.expert_tokens.equal(plain.expert_tokens)
