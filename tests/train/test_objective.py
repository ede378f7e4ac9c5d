"""A row's forward pass: what it is told before, which logits it gives, and the cross-entropy of each token."""

from __future__ import annotations

import torch

from llava_moe.train.objective import Objective
from tests.tiny_training import OBJECTIVE, Bigram, engine_of, inputs_of, rows_of, token_losses


def test_each_supervised_token_of_a_row_has_its_own_loss_and_domain() -> None:
    model = Bigram()
    (row,) = rows_of([[2, 0, 3]])
    losses_N, targets = OBJECTIVE.token_losses_N(engine_of(model), row)
    expected_N = torch.cat([token_losses(model, at) for at in (2, 0, 3)])
    assert losses_N.shape == (4,) and (losses_N - expected_N).abs().max() < 1e-6
    assert targets.domains_N.tolist() == [1, 0, 0, 0]


def test_labels_and_the_number_of_examples_are_told_before_the_forward_pass() -> None:
    order: list[object] = []
    (row,) = rows_of([[0, 3]])
    model = Bigram()
    model.register_forward_pre_hook(lambda *_: order.append("forward"))
    Objective(inputs_of, mark_prompts=lambda *told: order.extend(told)).forward(engine_of(model), row, logits_to_keep=1)
    assert order == [row.labels, 2, "forward"]


def test_only_the_logits_that_are_asked_for_are_computed() -> None:
    (row,) = rows_of([[0, 1]])
    engine = engine_of(Bigram())
    last = OBJECTIVE.forward(engine, row, logits_to_keep=2).logits
    chosen = OBJECTIVE.forward(engine, row, logits_to_keep=torch.tensor([0, 5])).logits
    whole = OBJECTIVE.forward(engine, row, logits_to_keep=torch.arange(row.num_tokens)).logits
    assert last.shape[1] == chosen.shape[1] == 2
    assert (last - whole[:, -2:]).abs().max() < 1e-12 and (chosen - whole[:, [0, 5]]).abs().max() < 1e-12
