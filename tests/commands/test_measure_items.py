"""What is measured of a run that stands beside runs on other domains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from llava_moe.commands import measure_items
from llava_moe.commands.measure_items import HeldOut
from llava_moe.errors import UserError
from llava_moe.grid.measured import Measures


def test_held_out_records_are_asked_of_a_run_for_the_domains_that_it_learns_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure_items, "read_config", lambda run: {"data": {}})
    monkeypatch.setattr(measure_items, "mixture_of", lambda config: SimpleNamespace(domains=("charts",)))
    monkeypatch.setattr(measure_items, "held_out_sources", lambda *words: ([], "data.held_out=0.1"))
    assembled = cast(Any, SimpleNamespace(model=torch.nn.Linear(1, 1), encoder=None))

    def records(*domains: str) -> list[dict[str, Any]]:
        return HeldOut(Path("run"), assembled, Measures(domains, None, held_out=True)).records()

    assert records("photos") == []
    with pytest.raises(UserError, match=r"no record of charts was held out of training \(data.held_out=0.1\)"):
        records("photos", "charts")
