"""Products of records' gradients, part by part, against plain autograd on the full logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

from llava_moe.adapters.core.wide_linear import WideLinear
from llava_moe.analyze.gradients import gram_matrices, record_gradients
from llava_moe.analyze.losses import example_losses_S
from llava_moe.analyze.parts import SCOPES, Part, chosen_parameters, members
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.assemble import Assembled
from llava_moe.commands.analyze_run import Session, open_records_of, open_run
from llava_moe.eval.ranks import ALONE
from tests.analyze.conftest import Trained

ADAPTERS = ("lora", "llava_mole", "mixlora")
WANTED = {"checkpoint": "last", "dtype": None, "out": None, "by": "domain", "split": None, "samples": 2, "seed": 0}


def opened(run: Path) -> tuple[Assembled, HeldOutRecords]:
    session = Session(ALONE, torch.device("cpu"), Console(quiet=True))
    analyzed = open_run(WANTED | {"run": str(run)}, session)
    return analyzed.assembled, open_records_of(analyzed, WANTED, session, fewest=2)


def plain_gradients(assembled: Assembled, records: HeldOutRecords) -> dict[str, list[np.ndarray]]:
    """Of every parameter of the adapter that trains and of the projector, record by record, by ``backward``."""
    model = assembled.model
    trained = assembled.attached.trainable_parameters()
    named = {n: p for n, p in model.named_parameters() if n in trained or "multi_modal_projector" in n}
    found: dict[str, list[np.ndarray]] = {name: [] for name in named}
    for module in model.modules():
        if isinstance(module, WideLinear):
            module.core = "autograd"
    for place in range(len(records.examples)):
        batch = records.row([place])
        assembled.attached.mark_prompts(batch.labels)
        logits = model(**assembled.inputs_of(batch)).logits[0, :-1]
        model.zero_grad()
        F.cross_entropy(logits, batch.labels[0, 1:], ignore_index=-100).backward()
        for name, tensor in named.items():
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            found[name].append(gradient.double().numpy().copy())
    for module in model.modules():
        if isinstance(module, WideLinear):
            module.core = "lean"
    return found


def part_by_name(name: str) -> Part:
    """As a reader would tell it from the parameter's name."""
    if "multi_modal_projector" in name:
        return Part(None, "projector", "projector")
    layer = int(name.split(".layers.")[1].split(".")[0])
    linear = next((one for one in name.split(".") if one.endswith("_proj")), "router")
    sides = {"lora_A": "A", "lora_B": "B"}
    return Part(layer, linear, sides.get(name.rsplit(".", 1)[1], "router"))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_products_of_every_part_are_those_of_plain_autograd(trained: Trained, tmp_path: Path, adapter: str) -> None:
    assembled, records = opened(trained(adapter))
    assert records.names == ("general", "documents", "medical") and len(records.examples) == 6
    plain = plain_gradients(assembled, records)
    parameters = chosen_parameters(assembled, with_projector=True)
    assert set(parameters.names) == set(plain)
    pieces, console = Pieces(tmp_path, "interference", {}), Console(quiet=True)
    gradients = record_gradients(assembled, parameters, records, pieces, ALONE, console)
    grams = gram_matrices(gradients, ALONE, console)

    expected: dict[Part, np.ndarray] = {}
    for name, by_record in plain.items():
        flat = np.stack([one.ravel() for one in by_record])
        expected[part_by_name(name)] = expected.get(part_by_name(name), 0) + flat @ flat.T
    assert set(grams) == set(expected)
    largest = max(np.abs(gram).max() for gram in expected.values())
    for part, gram in grams.items():
        np.testing.assert_allclose(gram, expected[part], rtol=2e-4, atol=1e-9 * largest, err_msg=str(part))
    if adapter == "llava_mole":
        assert all(grams[part].any() for part in grams if part.side == "router"), "routers get the loss's gradient"
    assert {part.side for part in grams} >= {"A", "B", "projector"}


def test_a_record_weighs_the_same_alone_and_in_a_row(trained: Trained) -> None:
    assembled, records = opened(trained("llava_mole"))
    places = list(range(len(records.examples)))
    with torch.no_grad():
        together = example_losses_S(assembled, records.row(places))
        alone = torch.cat([example_losses_S(assembled, records.row([place])) for place in places])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_parts_are_named_by_layer_linear_and_side(trained: Trained) -> None:
    assembled, _ = opened(trained("llava_mole"))
    parts = chosen_parameters(assembled, with_projector=False).distinct_parts()
    groups = {scope: set(members(parts, scope)) for scope in SCOPES}
    assert groups["all"] == {"all"} and groups["side"] == {"A", "B", "router"}
    assert groups["layer"] == {"layer 0", "layer 1"}
    assert groups["linear"] == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "router")
    }
    assert "layer 1 down_proj B" in groups["part"] and "layer 0 router" in groups["module"]
