"""``llava-moe analyze interference`` on tiny runs over three domains: its files, its restarts, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llava_moe.analyze import exact_steps
from llava_moe.cli import run
from tests.commands.conftest import Refusal
from tests.conftest import THREE_DOMAINS, Trained

FILES = tuple(f"interference.{kind}" for kind in ("json", "csv", "svg", "html"))
WORDS = ("samples=8", "exact_samples=8", "resamples=200", "num_threads=1")
DOMAINS = ["general", "documents", "medical"]


def analyze(folder: Path, *words: str) -> int:
    return run(["analyze", "interference", f"run={folder}", *WORDS, *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "analyze" / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What is written about a copy of the LoRA run that has the name of any ``fresh`` one, and that nothing stops."""
    folder = shutil.copytree(trained("lora"), tmp_path_factory.mktemp("whole") / "lora")
    assert analyze(folder) == 0
    return contents(folder)


def test_the_files_say_the_same_and_the_report_links_the_page(fresh: Callable[[str], Path]) -> None:
    folder = fresh("llava_mole")
    assert analyze(folder, "exact=[all,side]") == 0
    facts = json.loads((folder / "analyze" / "interference.json").read_text())
    assert (facts["names"], facts["records"], facts["held_out"]) == (DOMAINS, [8, 8, 8], "split val")
    assert (facts["step"], facts["method"], facts["exact_records"]) == (3, "llava_mole", 24)
    results = {(one["scope"], one["name"], one["order"]): one for one in facts["results"]}
    whole = results["all", "all", "first order"]
    np.testing.assert_allclose(np.diagonal(whole["ratio_of_means"]), 1)
    assert ("side", "router", "exact") in results and ("part", "layer 1 up_proj B", "first order") in results
    agreement = {(one["scope"], one["name"]): one["correlation"] for one in facts["agreement"]}
    assert agreement["all", "all"] > 0.99 and agreement["side", "B"] > 0.99
    # A ratio is that of the two effects, and an interval holds its estimate.
    effect = np.array(whole["effect"])
    np.testing.assert_allclose(whole["ratio_of_means"], effect / np.diagonal(effect)[:, None])
    ends = np.array(whole["intervals"]["ratio_of_means"], dtype=float)
    assert (ends[..., 0] <= whole["ratio_of_means"]).all() and (ends[..., 1] >= whole["ratio_of_means"]).all()

    with (folder / "analyze" / "interference.csv").open() as file:
        rows = {tuple(row[:6]): row[6] for row in csv.reader(file)}
    cell = rows["all", "all", "first order", "ratio_of_means", "documents", "general"]
    assert float(cell) == whole["ratio_of_means"][1][0]
    page = (folder / "analyze" / "interference.html").read_text()
    assert all(name in page for name in DOMAINS) and "load-balance loss" in page and "<script" not in page
    assert 'href="analyze/interference.html"' in (folder / "report.html").read_text()
    assert not list((folder / "analyze").rglob("gradient-*")), "gradients are no longer needed"


def test_the_same_command_gives_the_same_bytes_and_computes_nothing_twice(
    fresh: Callable[[str], Path], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh("lora")
    assert analyze(folder) == 0
    assert contents(folder) == whole
    with monkeypatch.context() as patch:
        patch.setattr(exact_steps, "_falls", None)
        assert analyze(folder) == 0
    assert contents(folder) == whole


def test_killed_it_goes_on_to_the_same_bytes(
    fresh: Callable[[str], Path], whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh("lora")
    taken: list[int] = []
    falls = exact_steps._falls

    def killed(*given: object) -> np.ndarray:
        if len(taken) == 9:
            raise KeyboardInterrupt
        taken.append(given[4])  # type: ignore[arg-type]
        return falls(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(exact_steps, "_falls", killed)
        assert analyze(folder) == 130
    assert not (folder / "analyze" / "interference.json").exists()
    # One of what was kept is damaged, as by a disk: it alone is computed again.
    kept = sorted((folder / "analyze").rglob("exact-*.npz"))
    kept[3].write_bytes(b"PK")
    again: list[int] = []

    def noted(*given: Any) -> np.ndarray:
        again.append(given[4])
        return falls(*given)

    monkeypatch.setattr(exact_steps, "_falls", noted)
    assert analyze(folder) == 0
    assert contents(folder) == whole
    assert taken == list(range(9)) and again == [3, *range(9, 24)]


def test_another_checkpoint_and_tasks_have_files_of_their_own(fresh: Callable[[str], Path]) -> None:
    folder = fresh("lora")
    assert analyze(folder, "exact=[]", "checkpoint=2") == 0
    facts = json.loads((folder / "analyze" / "step-000002" / "interference.json").read_text())
    assert facts["step"] == 2 and not (folder / "analyze" / "interference.json").exists()
    assert "analyze/step-000002/interference.html" in (folder / "report.html").read_text()
    assert analyze(folder, "exact=[]", "by=task", "projector=true", f"out={folder / 'tasks'}") == 0
    facts = json.loads((folder / "tasks" / "interference.json").read_text())
    assert {"chart", "emoji", "radiology"} <= set(facts["names"]) and facts["by"] == "task"
    assert {one["name"] for one in facts["results"] if one["scope"] == "side"} == {"A", "B", "projector"}


def test_what_cannot_be_measured_is_one_line(fresh: Callable[[str], Path], refused: Refusal, tmp_path: Path) -> None:
    folder = fresh("lora")
    words = ("analyze", "interference", f"run={folder}", "num_threads=1")
    assert "samples=7: give at least 8" in refused(*words, "samples=7")
    assert "checkpoint=1" in (told := refused(*words, "checkpoint=1")) and "there are 2, 3" in told
    assert "checkpoint=best" in refused(*words, "checkpoint=best")
    assert "was trained on it" in refused(*words, "split=train")
    assert "no record of split 'nosuch'" in refused(*words, "split=nosuch")
    config = yaml.safe_load((folder / "config.yaml").read_text())

    def changed(**sections: object) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config | sections))

    changed(domains=["general"])
    assert "domain general is the only one" in refused(*words)
    moved = config["model"] | {"architecture": config["model"]["architecture"] | {"tokenizer": str(tmp_path / "gone")}}
    changed(model=moved)
    assert "gone" in refused(*words)
    medical = config["data"]["sources"]["medical"] | {"path": str(tmp_path / "moved.json")}
    changed(data=config["data"] | {"sources": config["data"]["sources"] | {"medical": medical}})
    assert "moved.json" in refused(*words)


def test_a_run_without_an_adapter_is_refused(trained: Trained, refused: Refusal, tmp_path: Path) -> None:
    out = tmp_path / "none"
    assert run(["train", *THREE_DOMAINS, "adapter=none", f"out={out}"]) == 0
    told = refused("analyze", "interference", f"run={out}", "num_threads=1")
    assert "has no adapter, and analyze interference looks into one" in told


def test_records_that_a_run_held_out_are_those_it_is_measured_on(refused: Refusal, tmp_path: Path) -> None:
    out = tmp_path / "held-out"
    words = ("adapter=lora", "data.held_out=0.004", "train.max_steps=1")
    assert run(["train", *THREE_DOMAINS, *words, f"out={out}"]) == 0
    told = refused("analyze", "interference", f"run={out}", *WORDS)
    assert re.search(r"domain \w+ has [0-7] held-out records \(data.held_out=0.004\), and 8 are needed", told)
    config = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(config.replace("held_out: 0.004", "held_out: 0.01"))
    assert analyze(out, "exact=[]") == 0
    assert json.loads((out / "analyze" / "interference.json").read_text())["held_out"] == "data.held_out=0.01"
