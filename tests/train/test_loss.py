"""Losses and ledgers of packed rows are plain sums over supervised tokens, however samples are dealt to rows.

Shape suffixes: T tokens of a row, N supervised tokens, V vocabulary, D domains.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llava_moe.data.batch import Batch, collate
from llava_moe.train.loop import LoopSettings, train
from llava_moe.train.loss import RunningSums, StepSums, cross_entropy_N, targets_of
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState
from tests.tiny_training import (
    CPU,
    DOMAINS,
    OBJECTIVE,
    SAMPLES,
    VOCABULARY,
    Bigram,
    KeptRun,
    ListedStep,
    engine_of,
    example,
    rows_of,
    token_losses,
)

IMAGE = np.zeros((3, 2, 2), dtype=np.uint8)


class OneStep(ListedStep):
    """A stream of one optimizer step."""

    def steps_in_epoch(self, epoch: int) -> int:
        return 1

    def iterate(self, epoch: int, first_step: int) -> Generator[ListedStep, None, None]:
        yield self


def take_step(batches: Sequence[Batch]) -> tuple[Mapping[str, Any], dict[str, torch.Tensor]]:
    """One step of the loop on ``batches``: its record and the gradients that reached the optimizer."""
    model = Bigram()
    engine = engine_of(model)
    gradients: dict[str, torch.Tensor] = {}
    engine.optimizer.register_step_pre_hook(
        lambda *_: gradients.update(
            {name: master.grad.clone() for name, master in engine.masters.items()}  # type: ignore[union-attr]
        )
    )
    run = KeptRun()
    train(engine, OneStep(batches), OBJECTIVE, Schedule(1), [0.0], run, LoopSettings(DOMAINS), RunState())
    return run.records[0], gradients


SEATINGS = [
    [[0, 1, 2, 3, 4, 5]],
    [[1], [0, 2, 3, 4, 5]],
    [[5, 3], [1, 4], [0], [2]],
]


@pytest.mark.parametrize("seats", SEATINGS)
def test_loss_and_gradient_are_the_mean_over_all_supervised_tokens(seats: list[list[int]]) -> None:
    model = Bigram()
    expected = torch.cat([token_losses(model, at) for at in range(len(SAMPLES))]).mean()
    expected.backward()
    record, gradients = take_step(rows_of(seats))
    assert record["loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert record["objective"] == record["loss"]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (gradients[name] - parameter.grad).abs().max() < 1e-7


def test_the_token_mean_is_not_the_mean_over_rows() -> None:
    model = Bigram()
    rows = [torch.cat([token_losses(model, at) for at in row]).mean() for row in SEATINGS[2]]
    record, _ = take_step(rows_of(SEATINGS[2]))
    assert abs(torch.stack(rows).mean().item() - record["loss"]) > 1e-3


@pytest.mark.parametrize("seats", SEATINGS)
def test_the_ledger_of_each_domain_equals_a_plain_loop(seats: list[list[int]]) -> None:
    record, _ = take_step(rows_of(seats))
    model = Bigram()
    for number, name in enumerate(DOMAINS):
        members = [at for at, (domain, _) in enumerate(SAMPLES) if domain == number]
        losses = torch.cat([token_losses(model, at) for at in members])
        ledger = record["domains"][name]
        assert ledger["loss"] == pytest.approx(losses.mean().item(), abs=1e-6)
        assert (ledger["supervised_tokens"], ledger["samples"]) == (len(losses), len(members))


def test_null_segments_and_holes_change_neither_loss_nor_counts() -> None:
    seats = SEATINGS[1]
    plain, gradients = take_step(rows_of(seats))
    hole = example(1, "0110110", is_hole=True)
    with_hole = collate([example(*SAMPLES[1]), hole], [1, 6], None, 0)
    with_image = collate([example(*SAMPLES[at]) for at in seats[1]], seats[1], IMAGE, 0, 2, 4)
    null_row = collate([], [], None, 0)
    assert with_image.sample_positions[-1] == null_row.sample_positions[-1] == -1
    record, with_nulls = take_step([with_hole, with_image, null_row])
    for key in ("loss", "objective", "samples", "supervised_tokens", "domains"):
        assert record[key] == plain[key], key
    # A hole stands for a sample of the plan, so its tokens count as seen; null segments are nobody's.
    assert record["tokens"] == plain["tokens"] + len(hole.input_ids)
    for name, gradient in gradients.items():
        assert with_nulls[name].equal(gradient)


def test_a_step_without_supervised_tokens_has_no_loss_and_a_zero_gradient() -> None:
    record, gradients = take_step([collate([example(0, "000")], [0], None, 0)])
    assert record["loss"] == record["grad_norm"] == record["supervised_tokens"] == 0
    assert all(not gradient.any() for gradient in gradients.values())


def test_each_target_is_the_token_behind_its_position_in_the_same_segment() -> None:
    (row,) = rows_of([[3, 0, 2]])
    targets = targets_of(row)
    supervised = (row.labels[0] != -100).nonzero()[:, 0]
    assert targets.positions_N.equal(supervised - 1)
    assert targets.labels_N.equal(row.input_ids[0, supervised])
    assert targets.domains_N.tolist() == [0, 0, 0, 1]
    segment_of = torch.repeat_interleave(torch.tensor(row.segment_lengths))
    assert segment_of[targets.positions_N].equal(segment_of[supervised])


def test_half_precision_logits_are_reduced_in_fp32() -> None:
    (row,) = rows_of([[1]])
    targets = targets_of(row)
    logits_NV = torch.randn(len(targets.labels_N), VOCABULARY, generator=torch.Generator().manual_seed(0)).bfloat16()
    losses_N = cross_entropy_N(logits_NV, targets)
    assert losses_N.dtype == torch.float32
    assert losses_N.equal(F.cross_entropy(logits_NV.float(), targets.labels_N, reduction="none"))


def test_sums_of_rows_add_up_to_the_sums_of_the_step() -> None:
    def sums_of(seats: list[list[int]]) -> torch.Tensor:
        sums = RunningSums(len(DOMAINS), CPU)
        for row in rows_of(seats):
            targets = targets_of(row)
            sums.add_losses(torch.full((len(targets.labels_N),), 0.25), targets.domains_N)
            sums.add_row(row, torch.tensor(0.5 * row.num_samples))
        return sums.flat()

    ranks = [SEATINGS[2][:2], SEATINGS[2][2:]]
    apart = StepSums.from_flat(torch.stack([sums_of(rank) for rank in ranks]).sum(0))
    whole = StepSums.from_flat(sums_of(SEATINGS[2]))
    assert apart.flat().equal(whole.flat())
    assert whole.scalar("balance") == 3.0
    assert whole.scalar("examples") == 6.0
    assert whole.scalar("rows") == 4.0
    assert whole.loss == 0.25
