"""Real ranks (gloo) of each engine train what one process trains, and any of them goes on from any other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.conftest import Launch
from tests.forked_commands import ForkedCommand

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
NUM_STEPS = 12
ADAPTERS = {
    "lora": ["adapter=lora"],
    "lora on kept features": ["adapter=lora", "model.cache_features=memory"],
    "llava_mole": ["adapter=llava_mole"],
    "mixlora": ["adapter=mixlora", "adapter.num_factors=6", "adapter.r=2"],
}
StartRanks = Callable[..., list[ForkedCommand]]


@pytest.fixture(scope="module")
def words(tokenizer_folder: Path, own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two samples a step, most of them text: many steps show no image to any rank."""
    os.environ["LLAVA_MOE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    records = json.loads((own_data / "train.json").read_text())
    texts = [one for one in records if "image" not in one]
    few = [one for one in records if "image" in one][:6]
    path = tmp_path_factory.mktemp("texts") / "train.json"
    path.write_text(json.dumps([*few, *(one | {"id": f"{one['id']}-{copy}"} for one in texts for copy in range(2))]))
    return [
        *("exp=mix_general", "scale=demo", "model=tiny", f"model.architecture.tokenizer={tokenizer_folder}"),
        *("data=mine", f"path={path}", f"images={own_data}", "data.num_workers=0", "train.num_threads=1"),
        *(f"train.max_steps={NUM_STEPS}", "train.global_batch_size=2", "train.tokens_per_micro_batch=96"),
        *("train.max_length=96", "adapter.lora_dropout=0.0", "train.save_every=4", "train.keep_last=5"),
        *("stage.demo.learning_rates.adapter=2e-4", "stage.demo.learning_rates.projector=2e-4"),
    ]


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(folder: Path, step: int = NUM_STEPS) -> dict[str, torch.Tensor]:
    """What was trained, by its file and name."""
    checkpoint = folder / "checkpoints" / f"step-{step:06d}"
    paths = [path for path in checkpoint.rglob("*.safetensors") if path.parent.name != "engine"]
    return {f"{path.name} {name}": tensor for path in paths for name, tensor in load_file(path).items()}


def assert_equal_runs(one: Path, other: Path) -> None:
    left, right = records_of(one), records_of(other)
    assert [record["sample_hash"] for record in left] == [record["sample_hash"] for record in right]
    for a, b in zip(left, right, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-6)
        assert b["load_balance_loss"] == pytest.approx(a["load_balance_loss"], abs=1e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        for counted in ("tokens", "supervised_tokens", "samples"):
            assert a[counted] == b[counted]
        for name, ledger in a["domains"].items():
            assert b["domains"][name]["loss"] == pytest.approx(ledger["loss"], abs=1e-6)
    before, first, second = weights_of(one, 4), weights_of(one), weights_of(other)
    assert first.keys() == second.keys() and len(first) > 4
    moved = max(float((first[name] - before[name]).abs().max()) for name in first)
    assert moved > 0
    # AdamW divides by the root of tiny second moments, which blows up what is rounded: 2e-4 of the largest move here.
    for name, value in first.items():
        assert float((value - second[name]).abs().max()) < 1e-3 * moved, name


def finish(ranks: list[ForkedCommand]) -> None:
    statuses = [rank.wait(timeout=420) for rank in ranks]
    assert not any(statuses), [rank.output[-4000:] for rank in ranks]


@pytest.fixture(scope="module")
def alone(
    request: pytest.FixtureRequest, words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """Words for an adapter, and what one process makes of them."""
    folder = tmp_path_factory.mktemp(request.param)
    told = [*words, *ADAPTERS[request.param]]
    launch("one", told, folder / "run", folder)
    return told, folder / "run"


ENGINES = [("ddp", 2), ("ddp", 3)]
# What DeepSpeed divides does not depend on the adapter: two of them stand for all.
DIVIDED = [(f"zero{stage}", 2) for stage in (0, 2, 3)]


@pytest.mark.parametrize(
    ("alone", "parallel", "world"),
    [
        *((adapter, *engine) for adapter in ADAPTERS for engine in ENGINES),
        *((adapter, *engine) for adapter in ("lora", "llava_mole") for engine in DIVIDED),
    ],
    indirect=["alone"],
)
def test_ranks_equal_one_process_in_steps_without_any_image_too(
    alone: tuple[list[str], Path], parallel: str, world: int, start_ranks: StartRanks, tmp_path: Path
) -> None:
    told, one = alone
    finish(start_ranks(world, ["train", *told, f"parallel={parallel}", f"out={tmp_path / 'run'}"], tmp_path))
    assert_equal_runs(one, tmp_path / "run")
    for run in (one, tmp_path / "run"):
        # In some steps nothing moved the projector: AdamW counted fewer of them for it.
        state = load_file(run / "checkpoints" / f"step-{NUM_STEPS:06d}" / "engine" / "optimizer.safetensors")
        counts = {name: int(value) for name, value in state.items() if name.startswith("step/")}
        projector = [count for name, count in counts.items() if "projector" in name]
        assert projector and max(projector) < max(counts.values()) == NUM_STEPS


def test_torchrun_starts_it(words: list[str], launch: Launch, tmp_path: Path) -> None:
    few = [*words, "adapter=lora", "train.max_steps=4", "parallel=ddp"]
    launch("torchrun", few, tmp_path / "run", tmp_path)
    assert len(records_of(tmp_path / "run")) == 4


def rewind(folder: Path, step: int) -> None:
    """Put a run back to an earlier checkpoint, as a kill before the later ones would have left it."""
    (folder / "finished.json").unlink()
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if int(checkpoint.name.removeprefix("step-")) > step:
            shutil.rmtree(checkpoint)
    (folder / "checkpoints" / "last").write_text(f"step-{step:06d}\n")


@pytest.mark.parametrize(
    "engines",
    [
        [("auto", 2), ("single", 1), ("ddp", 3)],
        [("zero2", 2), ("ddp", 3), ("zero3", 2)],
        [("zero3", 3), ("single", 1), ("zero2", 2)],
        [("single", 1), ("zero0", 2), ("zero2", 3)],
    ],
    ids=lambda engines: "-".join(f"{name}_{world}" for name, world in engines),
)
def test_any_engine_goes_on_from_any_other_as_if_it_had_never_stopped(
    engines: list[tuple[str, int]], words: list[str], launch: Launch, start_ranks: StartRanks, tmp_path: Path
) -> None:
    told = [*words, "adapter=llava_mole"]
    launch("one", told, tmp_path / "one", tmp_path)
    run = tmp_path / "run"
    for number, (parallel, world) in enumerate(engines):
        if number:
            rewind(run, 4 * number)
        ranks = start_ranks(world, ["train", *told, f"parallel={parallel}", f"out={run}"], tmp_path)
        finish(ranks)
        if parallel == "auto":
            assert "2 processes: ddp (gradients and optimizer 0.0" in ranks[0].output, ranks[0].output
            assert json.loads((run / "environment.json").read_text())["engine"] == "ddp"
    assert_equal_runs(tmp_path / "one", run)
    saved = run / "checkpoints" / f"step-{NUM_STEPS:06d}" / "engine"
    assert len([*saved.glob("random-rank*")]) == engines[-1][1]
    assert {path.name for path in saved.iterdir() if "random" not in path.name} == {"optimizer.safetensors"}
