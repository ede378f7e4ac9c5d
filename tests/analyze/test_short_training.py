"""A short training against one AdamW step by hand on plain autograd, and the model left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.analyze.transfer_cells import Cells
from llava_moe.assemble import Assembled
from llava_moe.cli import run
from llava_moe.commands.analyze_run import Session, open_records_of, open_run
from llava_moe.commands.analyze_transfer import open_training_data, short_training, streams_of
from llava_moe.data.batch import Batch
from llava_moe.data.held_out import take
from llava_moe.data.stream import StepStream
from llava_moe.eval.ranks import ALONE
from tests.conftest import THREE_DOMAINS, Trained

WANTED: dict[str, Any] = {"checkpoint": "last", "dtype": None, "out": None, "by": "domain", "split": None}
WANTED |= {"samples": 3, "seed": 0, "steps": 1, "rate": 0.5}
QUIET = Session(ALONE, torch.device("cpu"), Console(quiet=True))


def opened(folder: Path, **settings: Any) -> Cells:
    plain = WANTED | settings | {"run": str(folder)}
    analyzed = open_run(plain, QUIET)
    records = open_records_of(analyzed, plain, QUIET, fewest=2)
    data = open_training_data(analyzed, QUIET)
    training = short_training(analyzed, plain, QUIET)
    return Cells(analyzed.assembled, records, training, streams_of(analyzed, data, QUIET), tokens_per_row=512)


@pytest.fixture(scope="module")
def undropped(embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plain LoRA's run without dropout, which a reference need not imitate."""
    folder = tmp_path_factory.mktemp("undropped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
        words = ("adapter=lora", "adapter.lora_dropout=0.0", f"out={folder / 'run'}")
        assert run(["train", *THREE_DOMAINS, *words]) == 0
        yield folder / "run"


def plain_loss(assembled: Assembled, batches: list[Batch]) -> torch.Tensor:
    """Mean cross-entropy over all supervised tokens, on the full logits."""
    total, count = torch.zeros(()), 0
    for batch in batches:
        logits = assembled.model(**assembled.inputs_of(batch)).logits[0, :-1]
        labels = batch.labels[0, 1:]
        total = total + F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += int((labels != -100).sum())
    return total / count


def losses_by_hand(assembled: Assembled, records: HeldOutRecords) -> list[float]:
    with torch.no_grad():
        return [float(plain_loss(assembled, [records.row([place])])) for place in range(len(records.examples))]


def step_by_hand(cells: Cells, batches: list[Batch]) -> None:
    """AdamW's first step: clip to norm 1, then each value moves by rate * g / (|g| + 1e-8), whatever its betas."""
    for module in cells.assembled.model.modules():
        if isinstance(module, WideLinear):
            module.core = "autograd"
    rates = {p: 0.5 * group.learning_rate for group in cells.training.groups for p in group.parameters.values()}
    tensors = list(rates)
    gradients = torch.autograd.grad(plain_loss(cells.assembled, batches), tensors)
    squares = sum(gradient.double().square().sum() for gradient in gradients)
    assert isinstance(squares, torch.Tensor)
    norm = float(torch.sqrt(squares))
    with torch.no_grad():
        for tensor, gradient in zip(tensors, gradients, strict=True):
            clipped = gradient * min(1.0, 1.0 / (norm + 1e-6))
            tensor.sub_(rates[tensor] * clipped / (clipped.abs() + 1e-8))


def test_one_step_on_a_domain_does_to_each_record_what_adamw_by_hand_does(undropped: Path) -> None:
    cells = opened(undropped)
    before_N, _ = cells.losses_before()
    with cells.training.trained_on(cells.stream_of("documents", 7), "documents", 7) as training_loss:
        after_N, _ = cells.losses_before()

    reference = opened(undropped)
    np.testing.assert_allclose(before_N, losses_by_hand(reference.assembled, reference.records), atol=1e-5)
    step = next(reference.stream_of("documents", 7).iterate(0, 0))
    assert training_loss == pytest.approx(float(plain_loss(reference.assembled, list(step.batches))), abs=1e-5)
    step_by_hand(reference, list(step.batches))
    expected_N = losses_by_hand(reference.assembled, reference.records)
    falls_N = before_N - expected_N
    assert np.abs(falls_N).max() > 1e-3, "the step must have done something for this to say anything"
    np.testing.assert_allclose(before_N - after_N, falls_N, atol=0.02 * np.abs(falls_N).max())


@pytest.mark.parametrize("adapter", ["lora", "llava_mole", "mixlora", "none"])
def test_afterwards_the_model_is_bit_for_bit_as_it_was(trained: Trained, adapter: str) -> None:
    cells = opened(trained(adapter), steps=2, rate=5.0)
    before = {name: tensor.clone() for name, tensor in cells.assembled.model.state_dict().items()}
    first_N, _ = cells.losses_before()
    losses = []
    for _ in range(2):
        torch.rand(3)  # dropout goes by the seed alone
        with cells.training.trained_on(cells.stream_of("general", 0), "general", 0):
            losses.append(cells.losses_before()[0])
    assert not cells.assembled.model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in cells.assembled.model.state_dict().items())
    np.testing.assert_array_equal(cells.losses_before()[0], first_N)
    np.testing.assert_array_equal(losses[0], losses[1])
    assert (losses[0] != first_N).any()


def test_a_short_training_may_be_longer_than_an_epoch(trained: Trained) -> None:
    cells = opened(trained("lora"), steps=3)
    stream = cells.stream_of("medical", 0)
    assert isinstance(stream, StepStream)
    (index,) = stream.indexes
    small = replace(stream, indexes=(take(index, np.arange(len(index.rows)) < 4),))
    assert small.steps_in_epoch() == 1
    with cells.training.trained_on(small, "medical", 0) as training_loss:
        assert np.isfinite(training_loss)
