"""The four files of ``analyze transfer``: numbers, table, drawing and page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from llava_moe.analyze.interference_page import Costs as GradientCosts
from llava_moe.analyze.matrix_chart import matrix_chart
from llava_moe.analyze.output import Output, render_page
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.analyze.transfer import FALL, SHARE, Comparison, Transfer

TEMPLATE = Path(__file__).with_name("transfer.html.j2")
HEADER = ("measure", "parameters", "affected", "updating", "value", "low", "high")
TITLES = {
    "ratio_of_means": "ratio of means",
    "mean_of_ratios": "mean of ratios",
    "effect": "effect",
    "pairwise_cosine": "cosine of records",
    "direction_cosine": "cosine of directions",
    FALL: "fall of the loss",
    SHARE: "share of own",
}


@dataclass(frozen=True)
class Costs:
    """What a measurement takes."""

    num_trainings: int
    num_steps: int
    batch_size: int
    num_measured: int
    gradients: GradientCosts

    @property
    def steps(self) -> str:
        """``10 steps``."""
        return "1 step" if self.num_steps == 1 else f"{self.num_steps:,} steps"

    @property
    def in_words(self) -> str:
        """For the console before it starts, and for the page."""
        trainings = "1 short training" if self.num_trainings == 1 else f"{self.num_trainings:,} short trainings"
        told = (
            f"{trainings} of {self.steps} of {self.batch_size:,} samples, the loss of {self.num_measured:,} held-out "
            "records after each"
        )
        return f"{told}; {self.gradients.in_words}" if self.gradients.num_backwards else told


@dataclass(frozen=True)
class MeasuredTransfer:
    """All that was found, and of what.

    Attributes:
        losses_N: before any training, nats per supervised token.
        training_losses_SD: the last step's loss of each short training.
        load_balance_coef: of what the short trainings minimise beside the loss; 0 where nothing is balanced.
    """

    run: Mapping[str, Any]
    records: HeldOutRecords
    settings: Mapping[str, Any]
    rates: Mapping[str, float]
    costs: Costs
    losses_N: np.ndarray
    training_losses_SD: np.ndarray
    load_balance_coef: float
    transfer: Transfer
    comparisons: tuple[Comparison, ...]

    @property
    def loss_D(self) -> np.ndarray:
        """Mean loss of each domain's records before."""
        group_N = self.records.group_of
        return np.array([self.losses_N[group_N == group].mean() for group in range(len(self.records.groups))])


def transfer_output(found: MeasuredTransfer) -> Output:
    """The contents of the four files."""
    drawing = _chart(found)
    return Output(_facts(found), HEADER, _rows(found), drawing, _page(found, drawing))


def _facts(found: MeasuredTransfer) -> dict[str, Any]:
    transfer = found.transfer
    return {
        "instrument": "transfer",
        **found.run,
        "by": found.records.by,
        "names": list(found.records.names),
        "held_out": found.records.told,
        "records": [len(group.examples) for group in found.records.groups],
        "settings": dict(found.settings),
        "learning_rates": dict(found.rates),
        "costs": vars(found.costs) | {"gradients": vars(found.costs.gradients)},
        "loss_before": found.loss_D.tolist(),
        "load_balance_coef": found.load_balance_coef,
        "last_training_loss": found.training_losses_SD.tolist(),
        **{name: matrix_DD.tolist() for name, matrix_DD in transfer.values.items()},
        "intervals": {name: ends.tolist() for name, ends in transfer.intervals.items()},
        "rank_correlations": [
            {
                "parameters": one.parameters,
                "matrix": one.measured,
                "against": one.against,
                **vars(one.correlation),
                "values": one.matrix_DD.tolist(),
            }
            for one in found.comparisons
        ],
    }


def _rows(found: MeasuredTransfer) -> list[tuple[Any, ...]]:
    names, transfer = found.records.names, found.transfer
    cells = [(i, j) for i in range(len(names)) for j in range(len(names))]
    measured = [
        (name, "", names[i], names[j], float(matrix_DD[i, j]), *transfer.intervals[name][i, j].tolist())
        for name, matrix_DD in transfer.values.items()
        for i, j in cells
    ]
    compared = [
        (one.measured, one.parameters, names[i], names[j], float(one.matrix_DD[i, j]), math.nan, math.nan)
        for one in found.comparisons
        for i, j in cells
    ]
    correlations = [
        (
            *(f"spearman of {one.against} and {one.measured}", one.parameters, "", ""),
            *(one.correlation.rho, one.correlation.low, one.correlation.high),
        )
        for one in found.comparisons
    ]
    return [*measured, *compared, *correlations]


def _digits(values: np.ndarray) -> int:
    """Decimals that show two figures of the largest value: what little steps do to a loss may be far below 0.01."""
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    return min(6, max(2, 1 - math.floor(math.log10(largest)))) if largest > 0 and math.isfinite(largest) else 2


def _by_parameters(comparisons: tuple[Comparison, ...]) -> dict[str, list[Comparison]]:
    """Whose gradients were compared -> the comparisons; all that trains first."""
    found: dict[str, list[Comparison]] = {}
    for one in comparisons:
        found.setdefault(one.parameters, []).append(one)
    return found


def _chart(found: MeasuredTransfer) -> str:
    panels = {"measured transfer, share of own": found.transfer.values[SHARE]}
    for one in found.comparisons:
        if one.measured in ("ratio_of_means", "direction_cosine") and one.parameters == found.comparisons[0].parameters:
            panels[f"gradients, {TITLES[one.measured]}"] = one.matrix_DD
    return matrix_chart(
        panels, found.records.names, "Measured transfer and gradient interference", "trained on or updating"
    )


def _page(found: MeasuredTransfer, drawing: str) -> str:
    settings, transfer = found.settings, found.transfer
    counts = ", ".join(f"{group.name} {len(group.examples)}" for group in found.records.groups)
    rates = ", ".join(f"{part} {rate:g}" for part, rate in found.rates.items())
    facts = [
        ("adapter", str(found.run["method"])),
        ("each training", f"{found.costs.steps} of {found.costs.batch_size:,} samples"),
        ("rates at its start", rates),
        ("seeds", ", ".join(str(seed) for seed in settings["seeds"])),
        ("held-out records", f"{counts} ({found.records.told})"),
        ("precision", str(found.run["dtype"])),
    ]
    return render_page(
        TEMPLATE,
        instrument="transfer",
        title=f"{found.run['run']}, step {found.run['step']:,}",
        heading="What training on one domain does to another",
        facts=facts,
        names=found.records.names,
        transfer=transfer,
        before=list(zip(found.records.names, found.loss_D.tolist(), strict=True)),
        chart=Markup(drawing),
        fall_digits=_digits(transfer.values[FALL]),
        compared=_by_parameters(found.comparisons),
        num_namings=max((one.correlation.num_namings for one in found.comparisons), default=0),
        num_compared=len(found.comparisons),
        num_pairs=len(found.records.names) * (len(found.records.names) - 1),
        titles=TITLES,
        settings=settings,
        load_balance_coef=found.load_balance_coef,
        costs=found.costs,
    )
