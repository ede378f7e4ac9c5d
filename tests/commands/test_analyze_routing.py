"""``llava-moe analyze routing`` on tiny runs of each method: its files, what they say, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_moe.cli import run
from llava_moe.files.checkpoints import newest_checkpoint
from tests.commands.conftest import Refusal
from tests.commands.routed_runs import QUESTIONS, words_for, write_domains

ENDINGS = ("json", "csv", "svg", "html")
FAST = ["samples=9", "resamples=100", "pictures=1"]


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Runs of two domains: ``moe`` (two checkpoints), ``mixlora``, and ``mole`` over ``lora0`` and ``lora1``."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        words = words_for(words_for_tiny, write_domains(folder / "own"))
        moe = ["adapter=llava_mole", "adapter.r=2", "train.save_every=2", "train.keep_last=9", "out=runs/moe"]
        assert run(["train", *words, *moe, "stage.demo.learning_rates.adapter=5e-2"]) == 0
        mixlora = ["adapter=mixlora", "adapter.num_factors=6", "adapter.r=2", "out=runs/mixlora"]
        assert run(["train", *words, *mixlora]) == 0
        assert run(["train", *words, "adapter=none", "out=runs/base"]) == 0
        frozen = ["adapter=lora", "adapter.r=2", "init_from=runs/base", "~stage.learning_rates.projector"]
        for seed in (0, 1):
            assert run(["train", *words, *frozen, f"seed={seed}", f"out=runs/lora{seed}"]) == 0
        compose = ["experts=[runs/lora0,runs/lora1]", "out=runs/mole"]
        assert run(["compose", *words, *compose]) == 0
        yield folder


@pytest.fixture
def runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(trained / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(trained)
    return trained / "runs"


def analyzed(folder: Path, name: str, *words: str) -> dict[str, Any]:
    assert run(["analyze", "routing", f"run=runs/{name}", *FAST, *words, f"out={folder}"]) == 0
    facts: dict[str, Any] = json.loads((folder / "routing.json").read_text())
    assert {path.name for path in folder.glob("routing.*")} == {
        f"routing.{end}" for end in ("json", "csv", "svg", "html")
    }
    return facts


def test_llava_mole_is_told_by_kind_of_token(runs: Path, tmp_path: Path) -> None:
    facts = analyzed(tmp_path / "out", "moe")
    assert facts["names"] == sorted(QUESTIONS) and facts["records"] == [9, 9] and facts["decides_by"] == "token"
    (checkpoint,) = facts["checkpoints"]
    assert checkpoint["step"] == 4 and list(checkpoint["kinds"]) == ["all", "image", "prompt", "answer"]
    for kind, atlas in checkpoint["kinds"].items():
        assert [router["layer"] for router in atlas["routers"]] == [0, 1]
        for router in atlas["routers"]:
            for told in router["domains"].values():
                assert sum(told["share"]) == pytest.approx(1, abs=1e-5)
                assert 1 <= told["effective_experts"] <= 3 and 0 <= told["entropy_of_even"] <= 1
                if kind == "image":
                    assert sum(told["served"]) == 9 * 16
    rows = [*csv.DictReader((tmp_path / "out" / "routing.csv").open())]
    one = next(row for row in rows if row["measure"] == "served" and row["kind"] == "image")
    router = checkpoint["kinds"]["image"]["routers"][0]
    assert float(one["value"]) == router["domains"][one["domain"]]["served"][int(one["expert"]) - 1]
    page = (tmp_path / "out" / "routing.html").read_text()
    assert page.count("data:image/webp") == 2 and page.count("patches by expert, layer") == 2 * 2


def test_mixlora_and_mole_count_records(runs: Path, tmp_path: Path) -> None:
    mixlora = analyzed(tmp_path / "mixlora", "mixlora")
    (atlas,) = mixlora["checkpoints"][0]["kinds"].values()
    assert mixlora["decides_by"] == "record" and len(mixlora["experts"]) == 6
    assert {router["part"].rpartition(".")[2] for router in atlas["routers"]} == {"A", "B"}
    assert len(atlas["routers"]) == 2 * 7 * 2
    assert all(sum(told["served"]) == 9 for router in atlas["routers"] for told in router["domains"].values())
    assert "No patches are drawn" in (tmp_path / "mixlora" / "routing.html").read_text()
    mole = analyzed(tmp_path / "mole", "mole")
    (atlas,) = mole["checkpoints"][0]["kinds"].values()
    assert mole["experts"] == ["lora0", "lora1"] and mole["method"] == "mole"
    weights = [told["share"] for router in atlas["routers"] for told in router["domains"].values()]
    assert all(sum(weight) == pytest.approx(1, abs=1e-5) and min(weight) > 0 for weight in weights)


def test_checkpoints_show_what_moves(runs: Path, tmp_path: Path) -> None:
    facts = analyzed(tmp_path / "out", "moe", "checkpoints=all")
    assert [one["step"] for one in facts["checkpoints"]] == [2, 4]
    first, last = (one["kinds"]["all"]["routers"] for one in facts["checkpoints"])
    assert all("changed" not in told for router in first for told in router["domains"].values())
    changed = [told["changed"] for router in last for told in router["domains"].values()]
    assert all(0 <= one <= 1 for one in changed) and max(changed) > 0
    alone = analyzed(tmp_path / "alone", "moe", "checkpoint=2")
    assert (
        alone["checkpoints"][0]["kinds"]["all"]["mean_mutual_information_bits"]
        == (facts["checkpoints"][0]["kinds"]["all"]["mean_mutual_information_bits"])
    )
    assert "From checkpoint to checkpoint" in (tmp_path / "out" / "routing.html").read_text()


def test_a_router_set_by_hand_shows_as_it_was_set(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All to expert 2 in the first layer; in the second, bias alone decides for expert 1 and 3 is dead in both."""
    shutil.copytree(runs / "moe", tmp_path / "runs" / "hand")
    path = newest_checkpoint(tmp_path / "runs" / "hand") / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    routers = sorted(name for name in tensors if ".router." in name)
    assert len(routers) == 4
    for layer, expert in ((0, 1), (1, 0)):
        for name in routers:
            if f"layers.{layer}." in name:
                tensors[name] = torch.zeros_like(tensors[name])
                if name.endswith("bias"):
                    tensors[name][expert] = 3.0
    save_file(tensors, path)
    monkeypatch.chdir(tmp_path)
    facts = analyzed(tmp_path / "out", "hand")
    for atlas in facts["checkpoints"][0]["kinds"].values():
        first, second = atlas["routers"]
        assert first["dead"] == ["1", "3"] and second["dead"] == ["2", "3"]
        assert first["mutual_information_bits"]["bits"] == second["mutual_information_bits"]["bits"] == 0
        assert first["domains"]["squares"]["share"] == [0, 1, 0]
        assert first["domains"]["charts"]["effective_experts"] == 1
        assert atlas["probe"]["accuracy"] <= atlas["probe"]["chance_95"]
        p = np.array([1, np.e**3, 1]) / (2 + np.e**3)
        assert first["domains"]["squares"]["decision_entropy_bits"] == pytest.approx(-(p * np.log2(p)).sum(), rel=1e-5)


def test_the_same_command_gives_the_same_bytes_and_goes_on_where_it_was(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    analyzed(first, "moe", "checkpoints=all")
    from llava_moe.analyze.atlas import measure
    from llava_moe.analyze.atlas.counts import count_record

    calls = 0

    def killed(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise KeyboardInterrupt
        return count_record(*given)

    monkeypatch.setattr(measure, "count_record", killed)
    assert run(["analyze", "routing", "run=runs/moe", *FAST, "checkpoints=all", f"out={again}"]) == 130
    assert not (again / "routing.json").exists()
    calls_after: list[int] = []

    def counted(*given: Any) -> Any:
        calls_after.append(1)
        return count_record(*given)

    monkeypatch.setattr(measure, "count_record", counted)
    analyzed(again, "moe", "checkpoints=all")
    assert len(calls_after) == 2 * 18 - 7
    for end in ENDINGS:
        assert (first / f"routing.{end}").read_bytes() == (again / f"routing.{end}").read_bytes()
    damaged = next(again.rglob("record-00003.npz"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    analyzed(again, "moe", "checkpoints=all")
    assert (first / "routing.json").read_bytes() == (again / "routing.json").read_bytes()


def test_the_report_of_the_run_links_the_page(runs: Path) -> None:
    assert run(["analyze", "routing", "run=runs/moe", *FAST]) == 0
    assert "analyze/routing.html" in (runs / "moe" / "report.html").read_text()
    shutil.rmtree(runs / "moe" / "analyze")


def test_what_cannot_be_looked_at_is_one_line(runs: Path, refused: Refusal) -> None:
    assert "no routing" in refused("analyze", "routing", "run=runs/lora0", *FAST)
    assert "needs run=" in refused("analyze", "routing")
    assert "keeps none of step 3; there are 2, 4" in refused("analyze", "routing", "run=runs/moe", "checkpoints=[3]")
    assert "one of the two" in refused("analyze", "routing", "run=runs/moe", "checkpoints=all", "checkpoint=2")
    one = "run=runs/moe/checkpoints/step-000004"
    assert "is one checkpoint" in refused("analyze", "routing", one, "checkpoints=all")
    assert "checkpoints=some" in refused("analyze", "routing", "run=runs/moe", "checkpoints=some")
    assert "dead_below=2" in refused("analyze", "routing", "run=runs/moe", "dead_below=2")
    assert "8 are needed" in refused("analyze", "routing", "run=runs/moe", "samples=7")
