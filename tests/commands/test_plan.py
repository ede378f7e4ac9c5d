"""``llava-moe plan`` against ``llava-moe train``: the same steps, the same memory; and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.profiler import ProfilerActivity, profile

import llava_moe.runs.stage as stage_module
from llava_moe.cli import run
from llava_moe.train.loop import train

Refused = Callable[..., str]


def planned(words: list[str], folder: Path) -> dict[str, Any]:
    """The one stage of a plan."""
    assert run(["plan", *words, f"out={folder}"]) == 0
    (stage,) = json.loads((folder / "plan.json").read_text())["stages"]
    return stage


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class AllocatorWatch:
    """Watches torch's CPU allocator from the first step of training to the last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.peak = 0

        def watched(engine: Any, *rest: Any) -> Any:
            standing = [*engine.module.parameters(), *engine.module.buffers(), *engine.masters.values()]
            before = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in standing}.values())
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
                state = train(engine, *rest)
            events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
            now = before
            for event in sorted(events, key=lambda event: event.start_ns()):
                now += event.nbytes()
                self.peak = max(self.peak, now)
            assert len(events) > 1000 and self.peak > before
            return state

        monkeypatch.setattr(stage_module, "train", watched)


DEMO = ["exp=mix_general_doc_med", "scale=demo", "train.num_threads=1", "data.num_workers=0", "eval.benchmarks=[]"]
DEMO_SIZE = {
    "lora, short rows": ["adapter=lora", "train.tokens_per_micro_batch=512"],
    "llava_mole, rows of 2048, 16 samples": ["adapter=llava_mole", "train.global_batch_size=16"],
    "whole, bf16, recomputed": ["adapter=none", "train.dtype=bf16", "train.activation_checkpointing=true"],
    "whole, fp32": ["adapter=none"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", DEMO_SIZE)
def test_the_planned_peak_is_within_a_tenth_of_the_measured(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside the training a checkpoint has a copy in the machine's memory, which is taken where there is room alone.
    words = [*DEMO, *DEMO_SIZE[case], "train.max_steps=2", "train.async_save=false"]
    plan = planned([*words, "device=cpu"], tmp_path / "plan")
    watch = AllocatorWatch(monkeypatch)
    assert run(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    # The step's inputs come from numpy, which torch's allocator does not see.
    memory = plan["needs"][0]["memory"]
    assert memory["total"] - memory["inputs"] == pytest.approx(watch.peak, rel=0.1)
    assert plan["num_steps"] == len(logged(tmp_path / "run")) == 2


# A step is one row: of rows of twice and four times its length there is none to trace.
ONE_ROW = "train.tokens_per_micro_batch=2048"
RUNS = {
    "one epoch, several rows a step": ["train.max_steps=null", "train.epochs=1"],
    "two epochs with repeats": ["train.max_steps=null", "train.epochs=2", "data.sources.mine.repeats=1.4", ONE_ROW],
    "a cap": ["train.max_steps=null", "train.epochs=1", "data.sources.mine.cap=21", ONE_ROW],
    "more steps than an epoch has": ["train.max_steps=9", ONE_ROW],
    "an epoch of a given size": ["train.max_steps=null", "train.epochs=2", "data.epoch_samples=19", ONE_ROW],
}


@pytest.mark.parametrize("case", RUNS)
def test_a_run_takes_the_steps_samples_and_tokens_that_were_planned(
    case: str, tiny_words: list[str], tmp_path: Path
) -> None:
    words = [*tiny_words, *RUNS[case], "adapter=lora"]
    plan = planned([*words, "device=cpu"], tmp_path / "plan")
    assert run(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    steps = logged(tmp_path / "run")
    assert plan["num_steps"] == steps[-1]["step"] == len(steps)
    for field in ("samples", "tokens", "supervised_tokens"):
        assert plan[field] == sum(step[field] for step in steps), field
    assert not plan["is_expected"]


def test_a_checkpoint_takes_the_disk_that_was_planned(tiny_words: list[str], tmp_path: Path) -> None:
    for adapter in ("llava_mole", "none"):
        words = [*tiny_words, ONE_ROW, "train.max_steps=1", f"adapter={adapter}", "train.dtype=bf16"]
        plan = planned([*words, "device=cpu"], tmp_path / f"plan-{adapter}")
        assert run(["train", *words, f"out={tmp_path / adapter}"]) == 0
        files = (tmp_path / adapter / "checkpoints" / "step-000001").rglob("*.safetensors")
        written = sum(file.stat().st_size for file in files if not file.name.startswith("random"))
        # Headers of safetensors come on top.
        assert written == pytest.approx(sum(plan["checkpoint"].values()), rel=0.03)


def test_nothing_is_written_but_the_plan_that_was_asked_for(tiny_words: list[str], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert run(["plan", *tiny_words, ONE_ROW, "device=cpu"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {cache.name}


MEDICAL = ["exp=mix_med", "model=tiny", "device=h100-80"]


def test_data_that_is_not_there_is_counted_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(MEDICAL, tmp_path / "plan")
    assert plan["is_expected"]
    (source,) = plan["sources"]
    assert (source["num_records"], source["samples"]) == (19_654, round(19_654 * 20.35))
    assert plan["num_steps"] == -(-source["samples"] // 128)
    shown = capsys.readouterr().out
    told, commands = shown.split("numbers: ")
    assert "Memory of each device at the peak: 1 x " in told
    assert "as published" in told and "llava-moe data check" in commands
    assert max(map(len, told.splitlines())) <= 80


def test_of_data_that_a_recipe_draws_from_the_drawn_records_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(["exp=mixlora_vision_flan", "model=tiny", "adapter=lora", "device=h100-80"], tmp_path / "plan")
    (source,) = plan["sources"]
    assert (source["num_records"], source["samples"]) == (182_167, 3 * 182_167)
    assert plan["num_steps"] == 3 * -(-182_167 // 128)


@pytest.mark.slow
def test_the_7b_is_planned_without_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A row of twice this is a device's whole step: two lengths are traced, and no third lies between or beyond.
    words = ["exp=mix_med", "model=random_7b", "train.tokens_per_micro_batch=8192"]
    plan = planned([*words, "device=h200-141", "num_devices=8"], tmp_path / "plan")
    # The published 7B and the paper's adapter.
    assert plan["num_trained"]["adapter"] == pytest.approx(173.1e6, rel=1e-3)
    memory = plan["needs"][0]["memory"]
    assert memory["weights"] == pytest.approx(2 * 7.06e9, rel=0.01)
    # performance.md's kept bytes: 6.4 d a token and linear of the MLP, 2.95 GB a sample of 822 tokens over all layers.
    assert memory["activations"] / plan["needs"][0]["row_tokens"] == pytest.approx(4.2 * 2**20, rel=0.25)
    assert plan["fits"] and plan["longest_row"] > 8192


@pytest.mark.slow
def test_what_cannot_fit_is_refused_with_the_nearest_that_does(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    layers = {"text": 4, "vision": 2}
    shape = ["model=random_7b", *(f"model.architecture.{part}.num_hidden_layers={layers[part]}" for part in layers)]
    words = ["exp=mix_med", *shape, "adapter=none", "device=t4-16"]
    told = refused("plan", *words)
    assert "on each of 1 x t4-16" in told
    plan = planned([*words, *told.split("the nearest that fits: ")[1].split(" (")[0].split()], tmp_path / "plan")
    assert plan["fits"]


def test_the_machine_at_hand_is_probed_by_real_steps(tiny_words: list[str], tmp_path: Path) -> None:
    plan = planned([*tiny_words, ONE_ROW, "train.max_steps=40", "probe=true"], tmp_path / "plan")
    probe = plan["probe"]
    assert probe["num_steps"] == 20 and probe["seconds_per_step"] > 0 and probe["peak"] > 0
    mean_tokens = plan["tokens"] / plan["num_steps"]
    expected = probe["seconds_per_step"] * mean_tokens / probe["tokens_per_step"]
    assert plan["hours"]["seconds_per_step"] == pytest.approx(expected)
    assert plan["hours"]["hours"] == pytest.approx(40 * expected / 3600)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["device=a100-81"], "did you mean a100-80"),
        (["device=abacus"], "is not known"),
        (["num_devices=0"], "a whole number of at least 1"),
        (["num_devices=two"], "a whole number of at least 1"),
        (["mfu=1.5"], "mfu=1.5"),
        (["probe=maybe"], "probe=maybe"),
        (["probe=true", "device=a100-80"], "is another"),
        (["train.max_step=3"], "did you mean train.max_steps"),
        (["trian.max_steps=3"], "unknown key trian.max_steps"),
        (["adapter=lroa"], "did you mean lora"),
        (["init_from=runs/nowhere"], "does not exist"),
        (["parallel=single", "num_devices=2"], "parallel=single with num_devices=2"),
        (["train.max_length=4096"], "longer than a row"),
        (["train.epochs=0", "train.max_steps=null"], "give one of them"),
        (["stage.learning_rates={adaptor: 1e-3}"], "adaptor"),
    ],
)
def test_a_mistake_is_one_line(refused: Refused, tiny_words: list[str], words: list[str], told: str) -> None:
    assert told in refused("plan", *tiny_words, *words)


def test_data_that_is_not_there_and_that_nobody_published_is_refused(refused: Refused, tiny_words: list[str]) -> None:
    words = [word for word in tiny_words if not word.startswith("path=")]
    assert "nowhere.json" in refused("plan", *words, "path=nowhere.json")


@pytest.mark.parametrize("words", [["data=conflict", "conflict=1.0"], ["data=demo_six"]])
def test_sources_whose_path_says_more_than_a_file_are_found(words: list[str], tmp_path: Path) -> None:
    small = ["exp=mix_general", "scale=demo", "domains=null", "model=tiny", "train.max_steps=2", "device=cpu"]
    plan = planned([*small, *words], tmp_path / "plan")
    assert not plan["is_expected"] and plan["num_steps"] == 2


def test_a_probe_needs_the_data(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = refused("plan", *MEDICAL[:2], "probe=true")
    assert "pathvqa is not there" in told


def test_a_model_that_cannot_be_reached_is_named_with_a_way_out(refused: Refused) -> None:
    told = refused("plan", "exp=mix_med", "model=vicuna_7b_clip336", "device=a100-80")
    assert "lmsys/vicuna-7b-v1.5" in told and "model=random_7b" in told
