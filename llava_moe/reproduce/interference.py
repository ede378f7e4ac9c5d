"""Interference matrices of a figure's runs: shares of cells below 0, what differs over seeds, and drawings.

A cell is an ordered pair of different domains on one side (A or B) of one linear of one layer; its value is the ratio
of means of ``llava-moe analyze interference``. Cells whose own steps do not help have no value and are not counted.

Shape suffixes: P parts (linear of a layer, side), D domains, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from llava_moe.analyze.interference_page import NEAR_ZERO
from llava_moe.analyze.interference_result import FIRST_ORDER
from llava_moe.analyze.matrix_chart import matrix_chart
from llava_moe.files.our_files import read_object
from llava_moe.grid.cell import Words
from llava_moe.grid.effects import effect_over_seeds
from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import Compared
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture, Table
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import STYLE, inline_svg
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.setup import Setup

SIDES = ("A", "B")
_MOST_LAYERS = 6
_REMEDY = "delete the folder that it lies in and run again"
_SHAPE = {
    "step": int,
    "names": [str],
    "results": [{"scope": str, "name": str, "order": str, "ratio_of_means": [list], "intervals": dict}],
}
Share = Literal["negative", "surely negative"]
_SHARES: tuple[Share, ...] = ("negative", "surely negative")


@dataclass(frozen=True)
class Moment:
    """When a run is looked at.

    Attributes:
        step: None: at its end.
    """

    name: str
    step: int | None

    @property
    def place(self) -> str:
        """Where the numbers lie in a run's folder."""
        within = "" if self.step is None else f"step-{self.step:06d}/"
        return f"analyze/{within}interference.json"


@dataclass(frozen=True)
class Matrices:
    """One run at one moment.

    Attributes:
        layers_P, sides_P: of each part.
        ratios_PDD: rows are affected, columns update; NaN where there is no value.
        highs_PDD: upper ends of the 95 % intervals over records.
        by_side: side to the matrix [D, D] of that side of all linears.
    """

    names: tuple[str, ...]
    layers_P: np.ndarray
    sides_P: np.ndarray
    ratios_PDD: np.ndarray
    highs_PDD: np.ndarray
    by_side: Mapping[str, np.ndarray]

    def share(self, kind: Share, side: str | None = None, layer: int | None = None) -> float:
        """The share of cells below 0 among those with a value; NaN without any."""
        values, highs = self._cells(side, layer)
        is_known = np.isfinite(values)
        is_counted = values < -NEAR_ZERO if kind == "negative" else highs < 0
        return float(is_counted[is_known].mean()) if is_known.any() else float("nan")

    def share_positive(self) -> float:
        """The share of cells above 0 among those with a value."""
        values, _ = self._cells(None, None)
        return float((values[np.isfinite(values)] > NEAR_ZERO).mean()) if np.isfinite(values).any() else float("nan")

    def share_known(self) -> float:
        """The share of cells that have a value."""
        return float(np.isfinite(self._cells(None, None)[0]).mean())

    def _cells(self, side: str | None, layer: int | None) -> tuple[np.ndarray, np.ndarray]:
        is_part_P = np.ones(len(self.layers_P), dtype=bool)
        if side is not None:
            is_part_P &= self.sides_P == side
        if layer is not None:
            is_part_P &= self.layers_P == layer
        is_pair_DD = ~np.eye(len(self.names), dtype=bool)
        return self.ratios_PDD[is_part_P][:, is_pair_DD], self.highs_PDD[is_part_P][:, is_pair_DD]


def moments(setup: Setup) -> tuple[Moment, Moment]:
    """An early checkpoint (the axis ``early``, a step), and the end.

    A training that is cut short (``train.max_steps=``) has its early one halfway at most.
    """
    step = setup.axis("early", int)
    limits = [word.partition("=")[2] for word in (*setup.words, *setup.both) if word.startswith("train.max_steps=")]
    if limits and limits[-1].isdecimal():
        step = max(1, min(step, int(limits[-1]) // 2))
    return Moment(f"step {step:,}", step), Moment("the end", None)


def kept_words(setup: Setup) -> Words:
    """Words of a training that keep its early checkpoint to the end."""
    early, _ = moments(setup)
    return (f"train.save_every={early.step}", f"train.keep_last={setup.axis('kept', int)}")


def measuring(setup: Setup) -> list[Words]:
    """The commands that measure a run at both moments, gradients alone."""
    words = ("analyze", "interference", *setup.axis("instrument", [str]))
    return [(*words, *([] if one.step is None else [f"checkpoint={one.step}"])) for one in moments(setup)]


def add_looked_at(build: Build) -> None:
    """A training on the mix of each model for every seed, looked at early and at its end."""
    setup = build.setup
    for seed in setup.seeds:
        for model, told in models_of(setup).items():
            words = (*told["words"], *kept_words(setup))
            build.train(model, words, setup.domains, seed, more=measuring(setup))


def read_matrices(path: Path) -> Matrices:
    """What one run's file says.

    Raises:
        UserError: it is damaged.
    """
    told = read_object(path, _REMEDY, _SHAPE)
    found = [one for one in told["results"] if one["order"] == FIRST_ORDER]
    # "layer 3 q_proj A"; a router's part has neither side.
    parts = [one for one in found if one["scope"] == "part" and one["name"].rpartition(" ")[2] in SIDES]
    ends_PDD2 = np.asarray([one["intervals"]["ratio_of_means"] for one in parts], dtype=np.float64)
    return Matrices(
        names=tuple(told["names"]),
        layers_P=np.asarray([int(one["name"].split(" ")[1]) for one in parts]),
        sides_P=np.asarray([one["name"].rpartition(" ")[2] for one in parts]),
        ratios_PDD=np.asarray([one["ratio_of_means"] for one in parts], dtype=np.float64),
        highs_PDD=ends_PDD2[..., 1],
        by_side={
            one["name"]: np.asarray(one["ratio_of_means"], dtype=np.float64)
            for one in found
            if one["scope"] == "side" and one["name"] in SIDES
        },
    )


def matrices_of(results: Results, way: Ways, moment: Moment) -> dict[int, Matrices]:
    """Seed to what was measured of a way of training."""
    return {seed: read_matrices(path) for seed, path in results.file(moment.place, **way.labels).items()}


def compare_shares(
    before: Mapping[int, Matrices] | float, after: Mapping[int, Matrices], kind: Share
) -> Compared | None:
    """The share of cells that ``after`` has more than ``before`` or than a fixed share, paired over seeds.

    Returns:
        None where no seed has both.
    """
    pairs = {}
    for seed, one in after.items():
        old = before if isinstance(before, float) else before[seed].share(kind) if seed in before else np.nan
        if np.isfinite(old) and np.isfinite(one.share(kind)):
            pairs[seed] = (old, one.share(kind))
    if not pairs:
        return None
    pairs_S2 = np.asarray([*pairs.values()])
    low, high = pairs_S2.mean(0).tolist()
    effect = effect_over_seeds(pairs_S2[:, 1] - pairs_S2[:, 0]) if len(pairs) > 1 else None
    return Compared(kind, next(iter(after.values())).names, tuple(pairs), low, high, effect)


def shares_table(found: Mapping[str, Mapping[int, Matrices]]) -> Table:
    """How many cells help, harm and surely harm, a row a way of training at a moment; means over seeds."""
    rows = []
    for name, by_seed in found.items():
        below = [compare_shares(0.0, by_seed, kind) for kind in _SHARES]
        told = ["\N{EN DASH}" if one is None else f"{interval(one, has_sign=False)} %" for one in below]
        above = _mean([one.share_positive() for one in by_seed.values()])
        known = _mean([one.share_known() for one in by_seed.values()])
        rows.append((name, *told, _percent(above), _percent(known), str(len(by_seed))))
    header = ("", "below 0", "surely below 0", "above 0", "have a value", "seeds")
    caption = (
        f"Shares of cells with a value, beyond {NEAR_ZERO} from 0; surely: the 95 % interval over records lies below "
        "0. Intervals are over seeds"
    )
    return Table(caption, header, tuple(rows))


def layer_picture(name: str, found: Mapping[str, Mapping[int, Matrices]], caption: str) -> Picture:
    """The share of cells below 0 by layer, a panel a side, a line a way, a dot a seed."""
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9}):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        panels = figure.subplots(1, len(SIDES), sharey=True)
        for axes, side in zip(panels, SIDES, strict=True):
            for number, (way, by_seed) in enumerate(found.items()):
                layers = _layers(by_seed)
                shares_SL = 100 * np.asarray(
                    [[one.share("negative", side, at) for at in layers] for one in by_seed.values()]
                )
                color = PALETTE[number % len(PALETTE)]
                axes.plot(layers, [_mean(column) for column in shares_SL.T], color=color, label=way)
                for shares_L in shares_SL:
                    axes.plot(layers, shares_L, ".", color=color, markersize=4, alpha=0.6)
                axes.set_xticks(layers if len(layers) <= 2 * _MOST_LAYERS else layers[:: len(layers) // _MOST_LAYERS])
            axes.set_title(side)
            axes.set_xlabel("layer")
        panels[0].set_ylabel("cells below 0, %")
        panels[0].set_ylim(bottom=0)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
        return Picture(name, inline_svg(figure, caption), caption)


def layer_matrices(by_seed: Mapping[int, Matrices]) -> dict[str, np.ndarray]:
    """Title to matrix [D, D] of each side of some layers: medians over the layer's linears and seeds."""
    layers = _layers(by_seed)
    places = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), _MOST_LAYERS)).round().astype(int))
    return {
        f"{side}, layer {layers[place]}": _median(
            [one.ratios_PDD[(one.sides_P == side) & (one.layers_P == layers[place])] for one in by_seed.values()]
        )
        for side in SIDES
        for place in places
    }


def side_matrices(by_seed: Mapping[int, Matrices], name: str) -> dict[str, np.ndarray]:
    """Title to matrix [D, D] of each side: medians over seeds."""
    return {f"{name}, {side}": _median([one.by_side[side][None] for one in by_seed.values()]) for side in SIDES}


def matrix_picture(name: str, matrices: Mapping[str, np.ndarray], names: Sequence[str], caption: str) -> Picture:
    """Matrices side by side."""
    return Picture(name, matrix_chart(matrices, names, caption), caption)


def facts_of(by_seed: Mapping[int, Matrices]) -> dict[str, Any]:
    """For ``results.json``: shares of cells by seed, and by side and layer."""
    return {
        str(seed): {
            "negative": _rounded(one.share("negative")),
            "surely_negative": _rounded(one.share("surely negative")),
            "positive": _rounded(one.share_positive()),
            "known": _rounded(one.share_known()),
            "negative_by_layer": {
                side: {str(layer): _rounded(one.share("negative", side, layer)) for layer in _layers(by_seed)}
                for side in SIDES
            },
        }
        for seed, one in by_seed.items()
    }


def told_shares(found: Mapping[str, Mapping[int, Matrices]]) -> str:
    """Each way's share of cells below 0, in words."""
    below = {name: compare_shares(0.0, by_seed, "negative") for name, by_seed in found.items()}
    told = [f"{name}: {interval(one, has_sign=False)} %" for name, one in below.items() if one is not None]
    return "; ".join(told)


def notes_of(setup: Setup) -> tuple[str, ...]:
    """What a reader has to know of the cells."""
    early, _ = moments(setup)
    return (
        "A cell is an ordered pair of different domains on A or B of one linear of one layer; its value is the ratio "
        "of means of llava-moe analyze interference, first order, whose own pages lie in the runs' folders. Rows are "
        f"affected, columns update; within {NEAR_ZERO} of 0 it is neither help nor harm. Cells of a domain that its "
        "own steps do not help have no value and are not counted.",
        f"{early.name.capitalize()} decides, the end stands beside it. This was chosen before any of the runs below: "
        "in a trial of one LoRA, gradients of different records hardly agreed at the end. The paper's matrices are of "
        "finished training.",
        "The paper's cells are pairs of six tasks, here they are pairs of domains.",
    )


def _layers(by_seed: Mapping[int, Matrices]) -> list[int]:
    return sorted({int(layer) for one in by_seed.values() for layer in one.layers_P})


def _median(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Over the first axis of all of them; NaN where none has a value."""
    values_PDD = np.concatenate(parts)
    is_known_DD = np.isfinite(values_PDD).any(0)
    median_DD = np.nanmedian(np.where(is_known_DD, values_PDD, 0.0), axis=0)
    return np.where(is_known_DD, median_DD, np.nan)


def _mean(numbers: Sequence[float] | np.ndarray) -> float:
    known = [float(number) for number in numbers if np.isfinite(number)]
    return float(np.mean(known)) if known else float("nan")


def _percent(number: float) -> str:
    return f"{100 * number:.1f} %" if np.isfinite(number) else "\N{EN DASH}"


def _rounded(number: float) -> float | None:
    return round(number, 6) if np.isfinite(number) else None
