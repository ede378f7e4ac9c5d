"""LLaVA-MoLE, Fig. 6: which expert serves which domain by layer, and at which depth the domain begins to decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from llava_moe.grid.in_words import MINUS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture, Table
from llava_moe.pages.domain_colors import PALETTE
from llava_moe.pages.inline_svg import STYLE, inline_svg
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.routing import FILE, Bits, Routing, bits_of, read_routing
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import FigureContent, Finding, Verdict

_MOLE = "llava_mole"
_EXPERT_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999")
"""As on the page of ``analyze routing``; none of them stands for a domain."""
_MOST_PANELS = 6


def cells(build: Build) -> None:
    """LLaVA-MoLE of the mix, with either router, its held-out records routed, for every seed."""
    setup = build.setup
    look = ("analyze", "routing", *setup.axis("routing", [str]))
    for seed in setup.seeds:
        for model, told in models_of(setup).items():
            build.train(f"{model}{_suffix(setup)}", told["words"], setup.domains, seed, more=[look])


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Shares by layer and domain, bits by layer; whether first layers serve all alike and later ones do not."""
    ways, runs = _ways(setup), _runs(setup, results)
    bars = _share_chart(setup, runs[_MOLE])
    line = _bits_chart(setup, runs, ways)
    pictures = []
    if bars:
        told = (
            "Shares of each domain's tokens that each expert serves, seed by seed: experts of two seeds have no order."
        )
        pictures.append(Picture("shares", bars, f"{told} {ways[_MOLE].name}."))
    if line:
        told = "Mutual information of expert and domain; bars are 95 % intervals over seeds and records."
        pictures.append(Picture("bits", line, told))
    return FigureContent(
        findings=findings_of(setup, runs[_MOLE]),
        pictures=tuple(pictures),
        tables=_tables(setup, runs, ways),
        ways=tuple(ways.values()),
        ours=_ours(setup, runs[_MOLE]),
        facts={
            name: {
                str(seed): {"layers": run.layers, "bits": run.bits_L.tolist(), "shares": run.share_DLK.tolist()}
                for seed, run in of_model.items()
            }
            for name, of_model in runs.items()
        },
        notes=(
            "Verdicts by depth: bits about the domain with their bias taken off, an interval over seeds and records "
            f"(llava_moe/reproduce/routing.py). A layer serves all alike below {100 * _alike(setup):.0f} % of the bits "
            "that would name the domain.",
            "Both routers have equal parameters and equal operations. The released code's (hard) learns from the "
            "balance loss alone: what it tells of the domain is what tokens differ in, not what the task taught it.",
        ),
    )


def findings_of(setup: Setup, runs: Mapping[int, Routing]) -> tuple[Finding, ...]:
    """First layers alike, later ones not, and the difference of the two."""
    first, later = _layers(setup, runs)
    most = max((run.most for run in runs.values()), default=0.0)
    line = _alike(setup) * most
    claims = (
        (f"the experts of {_told(first)} serve all domains alike", bits_of([*runs.values()], first), line, False),
        (f"the experts of {_told(later)} depend on the domain", bits_of([*runs.values()], later), line, True),
        (
            f"the experts of {_told(later)} tell more of the domain than those of {_told(first)}",
            bits_of([*runs.values()], later, less=first),
            0.0,
            True,
        ),
    )
    return tuple(_finding(claim, bits, line, is_above, most) for claim, bits, line, is_above in claims)


def _finding(claim: str, bits: Bits | None, line: float, is_above: bool, most: float) -> Finding:
    """Seen where the whole interval lies on the side of the line that is claimed, not seen where on the other."""
    facts = {
        "measure": "mutual information of expert and domain, bits",
        "line": round(line, 6),
        "names": round(most, 6),
    }
    if bits is None:
        return Finding(claim, "undecided", "no run is there", facts)
    facts |= {"bits": round(bits.mean, 6), "seeds": bits.num_seeds}
    told = f"{_interval(bits)} bits of the {most:.2f} that would name the domain"
    if bits.effect is None:
        return Finding(claim, "undecided", f"{told}, and one seed has no interval", facts)
    facts |= {"low": round(bits.effect.low, 6), "high": round(bits.effect.high, 6)}
    verdict: Verdict = "undecided"
    if bits.effect.low > line:
        verdict = "seen" if is_above else "not seen"
    elif bits.effect.high < line:
        verdict = "not seen" if is_above else "seen"
    against = f"the line is {line:.3f}" if line else "the line is 0"
    return Finding(claim, verdict, f"{told}, over {bits.num_seeds} seeds; {against}", facts)


def _tables(setup: Setup, runs: Mapping[str, Mapping[int, Routing]], ways: Mapping[str, Ways]) -> tuple[Table, ...]:
    first, later = _layers(setup, {seed: run for of_model in runs.values() for seed, run in of_model.items()})
    rows: list[tuple[str, list[int], list[int]]] = [(str(layer), [layer], []) for layer in _all_layers(runs)]
    rows += [(f"first: {_told(first)}", first, []), (f"later: {_told(later)}", later, [])]
    rows.append(("later less first", later, first))
    told = []
    for name, layers, less in rows:
        found = [bits_of([*runs[model].values()], layers, less) if layers else None for model in ways]
        told.append((name, *("\N{EN DASH}" if one is None else _interval(one) for one in found)))
    caption = "Mutual information of expert and domain, bits; 95 % intervals over seeds and records"
    return (Table(caption, ("layer", *(way.name for way in ways.values())), tuple(told)),)


def _ours(setup: Setup, runs: Mapping[int, Routing]) -> dict[str, str]:
    if not runs:
        return {}
    most = max(run.most for run in runs.values())
    groups = dict(zip(("first", "later", "all"), (*_layers(setup, runs), _all_layers({"": runs})), strict=True))
    found = {name: bits_of([*runs.values()], layers) for name, layers in groups.items()}
    return {
        name: f"{_told(groups[name])}: {_interval(bits)} bits of {most:.2f}" for name, bits in found.items() if bits
    }


# --- drawings -------------------------------------------------------------------------------------------------------


def _share_chart(setup: Setup, runs: Mapping[int, Routing]) -> str:
    """A row a seed, a panel a layer and one of all layers: each domain's tokens in the colours of their experts."""
    if not runs:
        return ""
    layers = _all_layers({"": runs})
    places = np.unique(np.linspace(0, len(layers) - 1, min(_MOST_PANELS, len(layers))).round().astype(int))
    shown = [layers[place] for place in places]
    with rc_context(STYLE | {"font.size": 9, "axes.titlesize": 9, "axes.grid": False}):
        figure = Figure(figsize=(8.4, 0.7 + 0.85 * len(runs)), layout="constrained")
        grid = figure.subplots(len(runs), len(shown) + 1, sharex=True, sharey=True, squeeze=False)
        for row, (seed, run) in zip(grid, runs.items(), strict=True):
            row[0].set_ylabel(f"seed {seed}")
            for axes, layer in zip(row, [*shown, None], strict=True):
                own = [place for place, one in enumerate(run.layers) if layer in (one, None)]
                _draw_shares(axes, run, run.share_DLK[:, own].mean(axis=1))
        for axes, layer in zip(grid[0], [*shown, None], strict=True):
            axes.set_title("all layers" if layer is None else f"layer {layer}")
        handles, names = grid[0][-1].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=8, frameon=False)
        return inline_svg(figure, setup.title)


def _draw_shares(axes: Axes, run: Routing, share_DK: np.ndarray) -> None:
    before_D = np.zeros(len(run.domains))
    for expert, share_D in enumerate(share_DK.T):
        color = _EXPERT_COLORS[expert % len(_EXPERT_COLORS)]
        axes.barh(run.domains, share_D, left=before_D, height=0.72, color=color, label=f"expert {expert + 1}")
        before_D = before_D + share_D
    axes.set_ylim(len(run.domains) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 1], ["0", "1"])


def _bits_chart(setup: Setup, runs: Mapping[str, Mapping[int, Routing]], ways: Mapping[str, Ways]) -> str:
    layers = _all_layers(runs)
    if not layers:
        return ""
    with rc_context(STYLE | {"font.size": 9}):
        figure = Figure(figsize=(8.4, 2.9), layout="constrained")
        axes = figure.add_subplot()
        for number, (model, way) in enumerate(ways.items()):
            found = [(layer, bits_of([*runs[model].values()], [layer])) for layer in layers]
            there = [(layer, one) for layer, one in found if one is not None]
            values = np.array([one.mean for _, one in there])
            ends = [
                (one.mean, one.mean) if one.effect is None else (one.effect.low, one.effect.high) for _, one in there
            ]
            lows, highs = np.array(ends, dtype=float).reshape(-1, 2).T
            places = np.array([layer for layer, _ in there], dtype=float) + 0.08 * (number - 0.5)
            errors, color = [values - lows, highs - values], PALETTE[number % len(PALETTE)]
            axes.errorbar(
                places, values, errors, color=color, marker="o", markersize=3.5, elinewidth=0.9, label=way.name
            )
        most = max(run.most for of_model in runs.values() for run in of_model.values())
        axes.axhline(_alike(setup) * most, color=PALETTE[3], linestyle=":", linewidth=1.1, label="alike below")
        axes.set_xlabel("layer")
        axes.set_ylabel("bits about the domain")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.set_title(f"Mutual information of expert and domain ({most:.2f} bits would name it)")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        return inline_svg(figure, f"{setup.title}: bits about the domain")


# --- what is where --------------------------------------------------------------------------------------------------


def _ways(setup: Setup) -> dict[str, Ways]:
    told = models_of(setup)
    return {name: Ways(one["label"], {"model": f"{name}{_suffix(setup)}", "on": "mix"}) for name, one in told.items()}


def _runs(setup: Setup, results: Results) -> dict[str, dict[int, Routing]]:
    """Model to seed to what was found of its routers."""
    found = {}
    for name, way in _ways(setup).items():
        labels: dict[str, Any] = dict(way.labels)
        found[name] = {seed: read_routing(path) for seed, path in results.file(FILE, **labels).items()}
    return found


def _all_layers(runs: Mapping[str, Mapping[int, Routing]]) -> list[int]:
    return sorted({layer for of_model in runs.values() for run in of_model.values() for layer in run.layers})


def _layers(setup: Setup, runs: Mapping[int, Routing]) -> tuple[list[int], list[int]]:
    """The first ones and the later ones, by their shares of the depth."""
    layers = _all_layers({"": runs})
    depth = 1 + max(layers, default=0)
    first = [layer for layer in layers if layer / depth < setup.axis("first", float)]
    return first, [layer for layer in layers if layer / depth >= setup.axis("later", float)]


def _told(layers: Sequence[int]) -> str:
    if not layers:
        return "no layer"
    if len(layers) == 1:
        return f"layer {layers[0]}"
    return f"layers {layers[0]} to {layers[-1]}"


def _alike(setup: Setup) -> float:
    share: float = setup.axis("alike_below", float)
    return share


def _suffix(setup: Setup) -> str:
    suffix: str = setup.axis("suffix", str)
    return suffix


def _interval(bits: Bits) -> str:
    numbers = [bits.mean] if bits.effect is None else [bits.mean, bits.effect.low, bits.effect.high]
    told = [f"{number:.3f}".replace("-", MINUS) for number in numbers]
    return told[0] if bits.effect is None else f"{told[0]} ({told[1]} to {told[2]})"
