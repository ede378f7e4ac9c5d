"""What the atlas found, as JSON and as a table of one number a row.

Shape suffixes: M domains, U routers, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llava_moe.analyze.atlas.counts import Router
from llava_moe.analyze.atlas.information import Information
from llava_moe.analyze.atlas.measure import Routers
from llava_moe.analyze.atlas.summary import KindAtlas
from llava_moe.analyze.records import HeldOutRecords

HEADER = ("step", "kind", "router", "layer", "part", "domain", "expert", "measure", "value", "low", "high")


@dataclass(frozen=True)
class Findings:
    """The atlas of a run.

    Attributes:
        run: facts of the run and its last checkpoint here.
        records: those that were routed.
        num_clusters: groups of records that show one image, among them.
        routers: what decides.
        experts: the names of the K.
        settings: ``seed``, ``samples``, ``resamples``, ``dead_below``.
        atlases: by step, and by kind of token.
    """

    run: Mapping[str, Any]
    records: HeldOutRecords
    num_clusters: int
    routers: Routers
    experts: tuple[str, ...]
    settings: Mapping[str, Any]
    atlases: Mapping[int, Mapping[str, KindAtlas]]

    @property
    def last(self) -> Mapping[str, KindAtlas]:
        """The atlas of the last checkpoint."""
        return self.atlases[max(self.atlases)]

    @property
    def lead(self) -> str:
        """The kind of token that stands for all: ``all``, or ``record``."""
        return next(iter(self.last))

    @property
    def by_record(self) -> bool:
        """Whether records are decided on as a whole."""
        return len(self.routers.kinds) == 1


def as_facts(found: Findings) -> dict[str, Any]:
    """The JSON file."""
    return {
        "instrument": "routing",
        **found.run,
        "by": found.records.by,
        "names": list(found.records.names),
        "held_out": found.records.told,
        "records": [len(group.examples) for group in found.records.groups],
        "images": found.num_clusters,
        "settings": dict(found.settings),
        "decides_by": "record" if found.by_record else "token",
        "experts": list(found.experts),
        "checkpoints": [
            {"step": step, "kinds": {kind: _kind(found, one) for kind, one in atlas.items()}}
            for step, atlas in found.atlases.items()
        ],
    }


def _kind(found: Findings, atlas: KindAtlas) -> dict[str, Any]:
    information, probe = atlas.information, atlas.probe
    mean = None if information is None or information.mean is None else _information(information.mean, 0)
    return {
        "informed_domains": list(atlas.domains),
        "mean_mutual_information_bits": mean,
        "probe": None
        if probe is None
        else {
            "accuracy": _short(probe.accuracy),
            "interval": [_short(probe.low), _short(probe.high)],
            "chance": _short(probe.chance),
            "chance_95": _short(probe.chance_high),
            "recall": dict(zip(atlas.domains, map(_short, probe.recall_M), strict=True)),
            "folds": probe.num_folds,
        },
        "routers": [_router(found, atlas, row, one) for row, one in enumerate(found.routers.routers)],
    }


def _router(found: Findings, atlas: KindAtlas, row: int, router: Router) -> dict[str, Any]:
    width = int(found.routers.num_experts_U[row])
    domains = {}
    for number, name in enumerate(found.records.names):
        entropy = float(atlas.entropy_MU[number, row])
        domains[name] = {
            "served": [_short(one) for one in atlas.served_MUK[number, row, :width].tolist()],
            "share": [_short(one) for one in atlas.share_MUK[number, row, :width].tolist()],
            "entropy_bits": _short(entropy),
            "entropy_of_even": _short(_of_even(entropy, atlas, row)),
            "effective_experts": _short(2**entropy),
            "decision_entropy_bits": _short(float(atlas.doubt_MU[number, row])),
            **({} if atlas.changed_MU is None else {"changed": _short(float(atlas.changed_MU[number, row]))}),
        }
    return {
        "name": router.name,
        "layer": router.layer,
        "part": router.part,
        "mutual_information_bits": None if atlas.information is None else _information(atlas.information, row),
        "mean_share": [_short(one) for one in atlas.share_UK[row, :width].tolist()],
        "dead": [found.experts[k] for k in np.flatnonzero(atlas.is_dead_UK[row]).tolist()],
        "domains": domains,
    }


def _of_even(entropy: float, atlas: KindAtlas, row: int) -> float:
    """Entropy as a part of that of even shares; 1 where there is one expert."""
    num = int(atlas.num_experts_U[row])
    return entropy / math.log2(num) if num > 1 else 1.0


def _information(one: Information, row: int) -> dict[str, Any]:
    return {
        "bits": _short(float(one.bits[row])),
        "interval": [_short(float(one.low[row])), _short(float(one.high[row]))],
        "plug_in": _short(float(one.plug_in[row])),
        "chance_mean": _short(float(one.chance_mean[row])),
        "chance_95": _short(float(one.chance_high[row])),
        "p_value": _short(float(one.p_value[row])),
    }


def _short(number: float) -> float:
    """Six digits: sums in another order may differ in the last of sixteen."""
    return float(f"{number:.6g}")


def as_rows(found: Findings) -> list[tuple[Any, ...]]:
    """The CSV file."""
    return [row for step, atlas in found.atlases.items() for kind in atlas for row in _rows(found, step, kind)]


def _rows(found: Findings, step: int, kind: str) -> Iterator[tuple[Any, ...]]:
    atlas = found.atlases[step][kind]
    if atlas.probe is not None:
        probe = atlas.probe
        values = (probe.accuracy, probe.low, probe.high)
        yield (step, kind, "", "", "", "", "", "probe_accuracy", *map(_short, values))
    if atlas.information is not None and atlas.information.mean is not None:
        yield (step, kind, "", "", "", "", "", "mean_mutual_information_bits", *_ends(atlas.information.mean, 0))
    for row, router in enumerate(found.routers.routers):
        who = (step, kind, router.name, router.layer, router.part)
        if atlas.information is not None:
            yield (*who, "", "", "mutual_information_bits", *_ends(atlas.information, row))
            yield (*who, "", "", "p_value", _short(float(atlas.information.p_value[row])), "", "")
        for number, name in enumerate(found.records.names):
            yield from _domain_rows(found, atlas, row, number, (*who, name))


def _ends(one: Information, row: int) -> Sequence[float]:
    return [_short(float(values[row])) for values in (one.bits, one.low, one.high)]


def _domain_rows(
    found: Findings, atlas: KindAtlas, row: int, number: int, who: tuple[Any, ...]
) -> Iterator[tuple[Any, ...]]:
    for k in range(int(found.routers.num_experts_U[row])):
        expert = found.experts[k]
        yield (*who, expert, "served", _short(float(atlas.served_MUK[number, row, k])), "", "")
        yield (*who, expert, "share", _short(float(atlas.share_MUK[number, row, k])), "", "")
    measures = {
        "entropy_bits": atlas.entropy_MU,
        "effective_experts": 2**atlas.entropy_MU,
        "decision_entropy_bits": atlas.doubt_MU,
    }
    if atlas.changed_MU is not None:
        measures["changed"] = atlas.changed_MU
    for name, values_MU in measures.items():
        yield (*who, "", name, _short(float(values_MU[number, row])), "", "")
