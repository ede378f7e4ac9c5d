"""What the routers of a way of training tell of the domain, by layer, from what ``analyze routing`` wrote of its runs.

The bits are the mutual information of expert and domain, with the bias of few records taken off; each run has an
interval over records. Of several seeds v_s with errors e_s:

    mean  = mean_s v_s
    var   = var(v_s) / S + mean_s e_s^2
    interval = mean -+ t * sqrt(var), Satterthwaite's degrees of freedom as in llava_moe/grid/effects.py

Records are the same for all seeds, so their part does not fall with the number of seeds. The error of a mean over
layers is the mean of their errors, which holds however the layers go together. Of a difference of layers the squares
are added, which is too wide where layers go together, as they do over the same records.

Shape suffixes: S seeds, L layers, D domains, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llava_moe.files.our_files import NUMBER, read_object
from llava_moe.grid.effects import LEVEL, Effect
from llava_moe.grid.student_t import quantile, two_sided

FILE = "analyze/routing.json"
_REMEDY = "delete the cell's folder and run again"
_NORMAL = 1.96
_ROUTER = {
    "layer": int,
    "mutual_information_bits": {"bits": NUMBER, "interval": [NUMBER]},
    "domains": {str: {"share": [NUMBER]}},
}
_SHAPE = {"names": [str], "images": int, "checkpoints": [{"kinds": {"all": {"routers": [_ROUTER]}}}]}


@dataclass(frozen=True)
class Routing:
    """The routers of one run at its last checkpoint, all kinds of token together.

    Attributes:
        domains: their names, D of them.
        num_images: that were drawn: records of one image are one.
        layers: of the L routers.
        bits_L, errors_L: about the domain, and the standard error over records.
        share_DLK: of a domain's tokens, which each expert serves; 0 for an expert that a layer has not.
    """

    domains: tuple[str, ...]
    num_images: int
    layers: tuple[int, ...]
    bits_L: np.ndarray
    errors_L: np.ndarray
    share_DLK: np.ndarray

    @property
    def most(self) -> float:
        """The bits that name the domain, or all that so many experts can say."""
        return math.log2(min(len(self.domains), self.share_DLK.shape[-1]))


def read_routing(path: Path) -> Routing:
    """What ``analyze routing`` wrote of a run.

    Raises:
        UserError: the file is missing or damaged.
    """
    told = read_object(path, _REMEDY, _SHAPE)
    routers = told["checkpoints"][-1]["kinds"]["all"]["routers"]
    num_experts = max(len(share["share"]) for one in routers for share in one["domains"].values())
    share_DLK = np.zeros((len(told["names"]), len(routers), num_experts))
    bits, errors = [], []
    for place, one in enumerate(routers):
        information = one["mutual_information_bits"]
        bits.append(information["bits"])
        # An end at 0 was cut off there: the other tells the width.
        errors.append(max(abs(end - information["bits"]) for end in information["interval"]) / _NORMAL)
        for row, domain in enumerate(told["names"]):
            share = one["domains"][domain]["share"]
            share_DLK[row, place, : len(share)] = share
    layers = tuple(one["layer"] for one in routers)
    return Routing(tuple(told["names"]), told["images"], layers, np.array(bits), np.array(errors), share_DLK)


@dataclass(frozen=True)
class Bits:
    """Bits about the domain over the seeds of a way of training; ``effect`` is None of fewer than two seeds."""

    mean: float
    effect: Effect | None
    num_seeds: int


def bits_of(runs: Sequence[Routing], layers: Sequence[int], less: Sequence[int] = ()) -> Bits | None:
    """The mean over layers, less that of others; None without a run that has such layers."""
    values, errors = [], []
    for run in runs:
        groups = [[place for place, layer in enumerate(run.layers) if layer in own] for own in (layers, less) if own]
        if not all(groups):
            continue
        means = [float(run.bits_L[own].mean()) for own in groups]
        values.append(means[0] - (means[1] if less else 0.0))
        errors.append(math.hypot(*(float(run.errors_L[own].mean()) for own in groups)))
    if not values:
        return None
    return Bits(float(np.mean(values)), _effect(values, errors, runs[0].num_images), len(values))


def _effect(values: Sequence[float], errors: Sequence[float], num_images: int) -> Effect | None:
    num_seeds, mean = len(values), float(np.mean(values))
    if num_seeds < 2:
        return None
    var_seeds, var_records = float(np.var(values, ddof=1)) / num_seeds, float(np.mean(np.square(errors)))
    variance = var_seeds + var_records
    if variance == 0:
        return Effect(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    spread = var_seeds**2 / (num_seeds - 1) + var_records**2 / max(1, num_images - 1)
    df, error = variance**2 / spread, math.sqrt(variance)
    width = quantile(LEVEL, df) * error
    return Effect(mean, mean - width, mean + width, two_sided(mean / error, df))
