"""Two real ranks (gloo on CPU) train what one process trains, under every ZeRO stage and both launchers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llava_moe.train.deepspeed_engine import ZeroSettings, _configuration, num_trained_in
from llava_moe.train.optimizer import OptimizerSettings
from tests.distributed.conftest import Launch

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_STEPS = 20


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_equal_runs(one: Path, two: Path) -> None:
    left, right = records_of(one), records_of(two)
    assert [r["sample_hash"] for r in left] == [r["sample_hash"] for r in right]
    for a, b in zip(left, right, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["load_balance_loss"] == pytest.approx(b["load_balance_loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert (a["tokens"], a["supervised_tokens"], a["samples"]) == (
            b["tokens"],
            b["supervised_tokens"],
            b["samples"],
        )
        for name, ledger in a["domains"].items():
            assert ledger["loss"] == pytest.approx(b["domains"][name]["loss"], abs=1e-5)
    step = f"checkpoints/step-{NUM_STEPS:06d}"
    names = [path.relative_to(one / step) for path in (one / step).rglob("*.safetensors")]
    names = [name for name in names if name.parts[0] != "engine"]
    assert len(names) > 1
    for name in names:
        first, second = load_file(one / step / name), load_file(two / step / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert (value - second[key]).abs().max() < 1e-5, key


@pytest.fixture(scope="module")
def words(tokenizer_folder: Path, own_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    os.environ["LLAVA_MOE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return [
        *("exp=mix_general", "scale=demo", "model=tiny", f"model.architecture.tokenizer={tokenizer_folder}"),
        *("data=mine", f"path={own_data / 'train.json'}", f"images={own_data}", "data.num_workers=0"),
        *(f"train.max_steps={NUM_STEPS}", "train.global_batch_size=7", "train.tokens_per_micro_batch=96"),
        *("train.max_length=96", "train.num_threads=1", "adapter.lora_dropout=0.0"),
        # AdamW divides by the root of tiny second moments: rates of a real run keep rounding where it began.
        *("stage.demo.learning_rates.adapter=2e-4", "stage.demo.learning_rates.projector=2e-4"),
    ]


@pytest.fixture(scope="module")
def one_process(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    launch("one", words, folder / "run", folder)
    return folder / "run"


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_ranks_of_a_launcher_equal_one_process(
    launcher: str, words: list[str], launch: Launch, one_process: Path, tmp_path: Path
) -> None:
    """LLaVA-MoLE; it and LoRA are held to more under the other stages, and as whole models, in test_data_parallel."""
    launch(launcher, [*words, *spread(2)], tmp_path / "run", tmp_path)
    assert_equal_runs(one_process, tmp_path / "run")


def spread(stage: int | str) -> list[str]:
    """Words for a ZeRO stage that partitions every parameter, however small; or for whole models."""
    if stage == "ddp":
        return ["parallel=ddp"]
    name = "parallel.extra.zero_optimization"
    whole_below = [f"{name}.stage=3", f"{name}.stage3_param_persistence_threshold=0"]
    return [f"parallel=zero{stage}", *(whole_below if stage == 3 else [])]


@pytest.fixture(scope="module")
def whole(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Words for a run without an adapter, whose language model trains, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("whole")
    plain = [word for word in words if "dropout" not in word]
    plain = [*plain, "adapter=none", "stage.demo.without_adapter.language_model=2e-4"]
    launch("one", plain, folder / "run", folder)
    return plain, folder / "run"


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_train_a_whole_language_model_as_one_process(
    stage: int, whole: tuple[list[str], Path], launch: Launch, tmp_path: Path
) -> None:
    plain, one = whole
    launch("ranks", [*plain, *spread(stage)], tmp_path / "run", tmp_path)
    assert_equal_runs(one, tmp_path / "run")


def test_every_adapter_is_held_to_this() -> None:
    here = {"llava_mole", "lora", "none", "mixlora", "mole"}
    assert {file.stem for file in (Path(__file__).parents[2] / "configs" / "adapter").glob("*.yaml")} == here


@pytest.fixture(scope="module")
def mixlora(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Words for a run whose linears choose by example, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("mixlora")
    chooses = [*words, "adapter=mixlora", "adapter.num_factors=6", "adapter.r=2"]
    launch("one", chooses, folder / "run", folder)
    return chooses, folder / "run"


def shares_of(folder: Path) -> torch.Tensor:
    """How often each factor was chosen: [steps * layers, factors], rounded to six places as logged."""
    layers = [layer for record in records_of(folder) for layer in record["experts"].values()]
    return torch.tensor([ledger["share"] for layer in layers for ledger in layer.values()])


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_choose_factors_as_one_process(
    stage: int, mixlora: tuple[list[str], Path], launch: Launch, tmp_path: Path
) -> None:
    chooses, one = mixlora
    launch("ranks", [*chooses, *spread(stage)], tmp_path / "run", tmp_path)
    assert_equal_runs(one, tmp_path / "run")
    torch.testing.assert_close(shares_of(tmp_path / "run"), shares_of(one), atol=2e-6, rtol=0)


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_train_unfrozen_parts_as_one_process(
    stage: int, words: list[str], launch: Launch, tmp_path: Path
) -> None:
    rates = [f"stage.learning_rates.{part}=1e-5" for part in ("vision_tower", "language_model")]
    launch("one", [*words, *rates], tmp_path / "one", tmp_path)
    launch("ranks", [*words, *rates, *spread(stage)], tmp_path / "run", tmp_path)
    assert_equal_runs(tmp_path / "one", tmp_path / "run")
    assert (tmp_path / "run" / f"checkpoints/step-{NUM_STEPS:06d}/model/base.safetensors").is_file()


@pytest.fixture(scope="module")
def mole(words: list[str], launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Words for a run whose balance loss is of the whole step, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("mole")
    for r in (2, 3):
        expert = [*words, "adapter=lora", f"adapter.r={r}", f"seed={r}", "train.max_steps=4"]
        launch("one", [*expert, "stage.demo.learning_rates.adapter=1e-2"], folder / f"expert{r}", folder)
    weighs = [word for word in words if "dropout" not in word]
    weighs += ["adapter=mole", f"adapter.experts=[{folder / 'expert2'},{folder / 'expert3'}]"]
    launch("one", weighs, folder / "run", folder)
    return weighs, folder / "run"


@pytest.mark.parametrize("stage", [0, 2, 3, "ddp"])
def test_two_ranks_weigh_experts_as_one_process(
    stage: int | str, mole: tuple[list[str], Path], launch: Launch, tmp_path: Path
) -> None:
    weighs, one = mole
    launch("ranks", [*weighs, *spread(stage)], tmp_path / "run", tmp_path)
    assert_equal_runs(one, tmp_path / "run")


def test_balance_over_the_step_does_not_depend_on_packing(
    mole: tuple[list[str], Path], launch: Launch, tmp_path: Path
) -> None:
    weighs, one = mole
    launch("one", [*weighs, "train.tokens_per_micro_batch=800"], tmp_path / "run", tmp_path)
    assert_equal_runs(one, tmp_path / "run")
    assert sum(record["rows"] for record in records_of(tmp_path / "run")) == NUM_STEPS
    assert sum(record["rows"] for record in records_of(one)) > 2 * NUM_STEPS


def test_two_ranks_in_bf16_follow_one_process_and_save_their_masters(
    words: list[str], launch: Launch, tmp_path: Path
) -> None:
    half = [*words, "train.dtype=bf16", "train.max_steps=4"]
    launch("one", half, tmp_path / "one", tmp_path)
    for stage in (0, 2):
        folder = tmp_path / f"zero{stage}"
        launch("ranks", [*half, f"parallel=zero{stage}"], folder, tmp_path)
        for a, b in zip(records_of(tmp_path / "one"), records_of(folder), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=2e-3)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=2e-2)
        saved = load_file(folder / "checkpoints" / "step-000004" / "adapter" / "adapter_model.safetensors")
        assert not any(torch.equal(value.bfloat16().float(), value) for value in saved.values())


def test_two_ranks_resume_where_they_were_stopped(words: list[str], launch: Launch, tmp_path: Path) -> None:
    half = [*words, "parallel=zero2", "train.save_every=10", "adapter.lora_dropout=0.1"]
    launch("ranks", half, tmp_path / "whole", tmp_path)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    rewind(tmp_path / "run", 10)
    launch("ranks", half, tmp_path / "run", tmp_path)
    left, right = records_of(tmp_path / "whole"), records_of(tmp_path / "run")
    assert [(r["sample_hash"], r["loss"]) for r in left] == [(r["sample_hash"], r["loss"]) for r in right]


def rewind(folder: Path, step: int) -> None:
    """Put a finished run back to an earlier checkpoint, as a kill before the later one would have left it."""
    (folder / "finished.json").unlink()
    newest = folder / "checkpoints" / (folder / "checkpoints" / "last").read_text().strip()
    (newest / "COMPLETE").unlink()
    assert (folder / "checkpoints" / f"step-{step:06d}" / "COMPLETE").exists()


def test_a_bucket_holds_what_trains_and_no_more() -> None:
    """DeepSpeed's own is of 5e8 numbers, 1 GiB in bf16 and 2 in fp32, however little trains."""
    weights = [torch.nn.Parameter(torch.zeros(3, 5)), torch.nn.Parameter(torch.zeros(4))]
    assert num_trained_in(weights) == 19
    for numbers, bucket in ((19, 24), (24, 24), (10**9, 500_000_000)):
        told = _configuration(ZeroSettings(2), 2, OptimizerSettings(), torch.bfloat16, numbers)["zero_optimization"]
        assert told["reduce_bucket_size"] == told["allgather_bucket_size"] == bucket
