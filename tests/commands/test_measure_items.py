"""What is measured of a run that stands beside runs on other domains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from llava_moe.analyze.records import HeldOutSource
from llava_moe.commands import measure_items
from llava_moe.commands.measure_items import HeldOut
from llava_moe.errors import UserError
from llava_moe.grid.measured import Measures


class Data:
    """A run's data of two domains, of which the run trains on ``charts``; ``joint`` stands for a split of both."""

    def __init__(self, follows_domains: bool, domains: tuple[str, ...] = ("charts", "photos")) -> None:
        self.config = {"data": {"follows_domains": follows_domains}, "domains": ["charts"]}
        self.domains = domains

    def mixture_of(self, config: Mapping[str, Any]) -> SimpleNamespace:
        kept = config["domains"] if config["data"]["follows_domains"] else None
        return SimpleNamespace(domains=tuple(one for one in self.domains if kept is None or one in kept))

    def held_out_sources(self, config: Mapping[str, Any], *words: Any) -> tuple[list[HeldOutSource], str]:
        found = self.mixture_of(config).domains
        label = "joint" if len(found) > 1 else "own"
        sources = [cast(Any, SimpleNamespace(domain=one, name=label)) for one in found]
        return [HeldOutSource(one, cast(Any, None), cast(Any, SimpleNamespace(rows=[]))) for one in sources], "told"


def measured(data: Data, domains: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Domain and label of what is measured."""
    monkeypatch.setattr(measure_items, "read_config", lambda run: data.config)
    monkeypatch.setattr(measure_items, "mixture_of", data.mixture_of)
    monkeypatch.setattr(measure_items, "held_out_sources", data.held_out_sources)
    monkeypatch.setattr(measure_items, "_drawn", lambda one, assembled: one)
    monkeypatch.setattr(
        HeldOut, "_of_source", lambda self, domain, one, config: iter([{"domain": domain, "from": one.source.name}])
    )
    assembled = cast(Any, SimpleNamespace(model=torch.nn.Linear(1, 1), encoder=None))
    told = HeldOut(Path("run"), assembled, Measures(domains, None, held_out=True)).records()
    return [(one["domain"], one["from"]) for one in told]


def test_a_run_of_one_domain_is_measured_on_others_of_its_data_and_on_its_own_by_its_own_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ("photos", "charts", "scans")
    assert measured(Data(True), asked, monkeypatch) == [("charts", "own"), ("photos", "joint")]
    # What other runs' data hold is asked of those alone.
    assert measured(Data(False, ("charts",)), asked, monkeypatch) == [("charts", "own")]


def test_a_domain_of_which_nothing_was_held_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(False, ("charts",))
    monkeypatch.setattr(data, "held_out_sources", lambda *words: ([], "data.held_out=0.1"))
    with pytest.raises(UserError, match=r"no record of charts was held out of training \(data.held_out=0.1\)"):
        measured(data, ("charts",), monkeypatch)
