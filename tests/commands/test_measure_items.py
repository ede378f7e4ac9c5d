"""What is measured of a run that stands beside runs on other domains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from llava_moe.commands import measure_items
from llava_moe.commands.measure_items import MeasuredHeldOut, questions_of
from llava_moe.data.held_out import HeldOutSource
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer
from llava_moe.eval.tasks.demo import open_demo_benchmark
from llava_moe.grid.measured import Measures, Score
from llava_moe.run_config import RunConfig

STAGE = {"template": "v1", "image_mode": "pad", "learning_rates": {}}
TRAIN = {"dtype": "fp32", "max_length": 9, "over_length": "cut", "tokens_per_micro_batch": 9}
TRAIN |= {"global_batch_size": 1}


class Data:
    """A run's data of two domains, of which the run trains on ``charts``; ``joint`` stands for a split of both."""

    def __init__(self, follows_domains: bool, domains: tuple[str, ...] = ("charts", "photos")) -> None:
        sections = {"model": {"architecture": {}}, "stage": STAGE, "train": TRAIN}
        data = {"sources": {}, "follows_domains": follows_domains}
        self.config = RunConfig.of({**sections, "data": data, "domains": ["charts"]})
        self.domains = domains

    def mixture_of(self, config: RunConfig) -> SimpleNamespace:
        kept = config.domains if config.data.follows_domains else None
        return SimpleNamespace(domains=tuple(one for one in self.domains if kept is None or one in kept))

    def held_out_sources(self, config: RunConfig, *words: Any) -> tuple[list[HeldOutSource], str]:
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
        MeasuredHeldOut,
        "_of_source",
        lambda self, domain, one, config: iter([{"domain": domain, "from": one.source.name}]),
    )
    assembled = cast(Any, SimpleNamespace(model=torch.nn.Linear(1, 1), encoder=None))
    told = MeasuredHeldOut(Path("run"), assembled, Measures(domains, None, held_out=True)).records()
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


def test_questions_of_some_kinds_stand_for_a_domain_that_the_benchmark_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = open_demo_benchmark(limit=1, min_compared=0)
    answers = [Answer(one.id, "", one.references, {"exact_match": 0.0}) for one in opened.questions()]
    monkeypatch.setattr(measure_items, "read_result", lambda run, name: SimpleNamespace(facts=None))
    monkeypatch.setattr(measure_items, "reopen_benchmark", lambda result: opened)
    monkeypatch.setattr(measure_items, "read_answers", lambda path: answers)
    kinds = {one.id: one.kind for one in opened.questions()}

    def asked(domain: str, kinds: tuple[str, ...]) -> list[str]:
        measures = Measures((), None, {domain: Score("demo", "exact_match", True, kinds=kinds)})
        assert Measures.from_word(measures.as_word().removeprefix("measure=")) == measures
        return [told["id"] for told in questions_of(Path("run"), measures)]

    assert [kinds[name] for name in asked("flags", ("flag contains",))] == ["flag contains"]
    assert {kinds[name] for name in asked("general", ("flag contains", "skull"))} == {"flag contains"}
    assert len(asked("general", ())) > 10
