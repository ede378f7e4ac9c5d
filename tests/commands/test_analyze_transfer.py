"""``llava-moe analyze transfer`` on tiny runs over three domains: its files, its restarts, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from llava_moe.analyze.transfer_cells import Cells
from llava_moe.cli import run
from tests.commands.conftest import Refusal
from tests.conftest import THREE_DOMAINS, Trained

FILES = tuple(f"transfer.{kind}" for kind in ("json", "csv", "svg", "html"))
WORDS = ("samples=8", "steps=2", "resamples=100", "num_threads=1")
DOMAINS = ["general", "documents", "medical"]


def analyze(folder: Path, *words: str) -> int:
    return run(["analyze", "transfer", f"run={folder}", *WORDS, *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "analyze" / name).read_bytes() for name in FILES}


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "transfer.json").read_text())
    return facts


@pytest.mark.parametrize("adapter", ["lora", "llava_mole", "mixlora"])
def test_the_files_say_the_same_and_the_report_links_the_page(fresh: Callable[[str], Path], adapter: str) -> None:
    folder = fresh(adapter)
    assert analyze(folder, "seeds=[0,3]") == 0
    facts = facts_of(folder / "analyze")
    assert (facts["names"], facts["records"], facts["step"]) == (DOMAINS, [8, 8, 8], 3)
    fall = np.array(facts["fall"])
    assert fall.shape == (3, 3) and np.isfinite(fall).all() and (fall != 0).all()
    share = np.array(facts["share_of_own"], dtype=float)
    helped = np.diagonal(fall) > 0
    np.testing.assert_allclose(share[helped], (fall / np.diagonal(fall)[:, None])[helped])
    assert np.isnan(share[~helped]).all()
    assert np.array(facts["last_training_loss"]).shape == (2, 3)
    correlations = {(one["parameters"], one["matrix"]): one for one in facts["rank_correlations"]}
    whole = correlations["all that trains", "effect"]
    assert (whole["num_pairs"], whole["num_namings"]) == (6, 6) and -1 <= whole["rho"] <= 1
    assert {name for name, _ in correlations} >= {"all that trains", "adapter", "A", "B", "projector"}

    with (folder / "analyze" / "transfer.csv").open() as file:
        rows = {tuple(row[:4]): row[4] for row in csv.reader(file)}
    assert float(rows["fall", "", "documents", "general"]) == fall[1, 0]
    assert float(rows["spearman of fall and effect", "adapter", "", ""]) == correlations["adapter", "effect"]["rho"]
    page = (folder / "analyze" / "transfer.html").read_text()
    assert all(name in page for name in DOMAINS) and "6 pairs are few" in page and "<script" not in page
    assert ("load-balance loss is minimised" in page) is (adapter == "llava_mole")
    assert 'href="analyze/transfer.html"' in (folder / "report.html").read_text()
    assert not list((folder / "analyze").rglob("gradient-*")), "gradients are no longer needed"


def test_the_same_command_gives_the_same_bytes_and_trains_nothing_twice(
    fresh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh("lora")
    assert analyze(folder) == 0
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(Cells, "_losses_of", None)
        assert analyze(folder) == 0
    assert contents(folder) == before
    folder = fresh("lora")
    assert analyze(folder) == 0
    assert contents(folder) == before


def test_killed_it_goes_on_to_the_same_bytes_and_more_seeds_train_those_alone(
    fresh: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh("llava_mole")
    assert analyze(folder, "seeds=[0,1]", "gradients=false") == 0
    whole = contents(folder)
    folder = fresh("llava_mole")
    losses_of = Cells._losses_of
    taken: list[tuple[str, int]] = []

    def killed(cells: Cells, domain: str, seed: int) -> Any:
        if len(taken) == 2:
            raise KeyboardInterrupt
        taken.append((domain, seed))
        return losses_of(cells, domain, seed)

    monkeypatch.setattr(Cells, "_losses_of", killed)
    assert analyze(folder, "seeds=[0]", "gradients=false") == 130
    assert not (folder / "analyze" / "transfer.json").exists()
    again: list[tuple[str, int]] = []

    def counted(cells: Cells, domain: str, seed: int) -> Any:
        again.append((domain, seed))
        return losses_of(cells, domain, seed)

    monkeypatch.setattr(Cells, "_losses_of", counted)
    assert analyze(folder, "seeds=[0,1]", "gradients=false") == 0
    assert taken == [("general", 0), ("documents", 0)]
    assert again == [("medical", 0), *((name, 1) for name in DOMAINS)]
    assert contents(folder) == whole


def test_the_start_of_a_run_and_a_run_without_an_adapter_have_a_transfer(fresh: Callable[[str], Path]) -> None:
    folder = fresh("lora")
    assert analyze(folder, "checkpoint=start") == 0
    facts = facts_of(folder / "analyze" / "step-000000")
    assert facts["step"] == 0 and np.isfinite(facts["fall"]).all()
    # The first step of a fresh LoRA has gradients in B alone.
    by_side = {one["parameters"]: one for one in facts["rank_correlations"] if one["matrix"] == "effect"}
    assert not np.array(by_side["A"]["values"], dtype=float).any() and np.array(by_side["B"]["values"]).any()
    folder = fresh("none")
    assert analyze(folder) == 0
    assert facts_of(folder / "analyze")["rank_correlations"] == []
    assert "the run has no adapter" in (folder / "analyze" / "transfer.html").read_text()


def test_the_start_is_found_from_any_folder_and_refused_where_it_is_another_by_now(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained("lora"), "first")
    assert run(["train", *THREE_DOMAINS, "adapter=lora", "init_from=first", "train.max_steps=1", "out=second"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    second = tmp_path / "second"
    assert analyze(second, "checkpoint=start", "steps=1", "gradients=false") == 0
    (tmp_path / "first" / "checkpoints" / "last").write_text("step-000002")
    line = refused("analyze", "transfer", f"run={second}", *WORDS, "checkpoint=start")
    assert "second was started from another projector than" in line


def test_runs_of_equal_weights_that_train_otherwise_share_no_pieces_in_one_folder(
    fresh: Callable[[str], Path], tmp_path: Path
) -> None:
    """Before the first step, a rate or an adapter's scale is all that tells two runs apart."""
    words = ("checkpoint=start", "steps=1", "gradients=false", f"out={tmp_path / 'shared'}")
    found = []
    for alpha, rate in ((64, 1e-3), (64, 2e-3), (8, 1e-3)):
        folder = fresh("lora")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["adapter"]["lora_alpha"] = alpha
        config["stage"]["learning_rates"]["adapter"] = rate
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        assert analyze(folder, *words) == 0
        found.append(facts_of(tmp_path / "shared"))
    assert len({one["weights"] for one in found}) == 1
    assert len({str(one["fall"]) for one in found}) == 3


def test_what_cannot_be_measured_is_one_line(fresh: Callable[[str], Path], refused: Refusal, tmp_path: Path) -> None:
    folder = fresh("lora")
    words = ("analyze", "transfer", f"run={folder}", "num_threads=1")
    assert "needs run=" in refused("analyze", "transfer")
    assert "steps=0" in refused(*words, "steps=0")
    assert "a seed stands there twice" in refused(*words, "seeds=[1,1]")
    assert "by=task" in refused(*words, "by=task")
    assert "checkpoint=first: give last, best, start, or" in refused(*words, "checkpoint=first")
    assert "samples=5: give at least 8" in refused(*words, "samples=5")
    (folder / "analyze").write_text("")
    for run_or_checkpoint in (folder, folder / "checkpoints" / "step-000003"):
        line = refused("analyze", "transfer", f"run={run_or_checkpoint}")
        assert "analyze is there already and is no folder; choose another with out=" in line
    (folder / "analyze").unlink()
    config = yaml.safe_load((folder / "config.yaml").read_text())

    def changed(**sections: object) -> None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config | sections))

    changed(domains=["general"])
    assert "domain general is the only one" in refused(*words)
    moved = config["model"] | {"architecture": config["model"]["architecture"] | {"tokenizer": str(tmp_path / "gone")}}
    changed(model=moved)
    assert "gone" in refused(*words)
    changed()
    assert "not finite" in refused(*words, "rate=1e30", "samples=8", "steps=2")
