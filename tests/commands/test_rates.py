"""Learning rates from the command line: one name at every scale, parts unfrozen, and runs that train them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from llava_moe.cli import run
from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.rates import PARTS, notes_on_old_words
from llava_moe.errors import UserError
from llava_moe.model import stages as model_stages
from llava_moe.runs.stage import trainable_parts
from llava_moe.runs.stages import Stage, plan_stages
from tests.commands.conftest import Refusal
from tests.commands.test_train import assert_same_run, num_logged
from tests.forked_commands import CommandServer

SCALES: tuple[tuple[str, ...], ...] = ((), ("scale=demo",))


def stages_of(*words: str) -> list[Stage]:
    """The stages that ``llava-moe train WORDS`` would train."""
    found: list[Stage] = []

    def job(config: DictConfig, task_words: list[str]) -> int:
        found.extend(plan_stages(resolved(config), task_words))
        return 0

    run_composed("train", [prepare_override(word) for word in words], job)
    for stage in found:
        trainable_parts(stage.config)
    return found


def rates_of(*words: str) -> dict[str, float]:
    (stage,) = stages_of(*words)
    return dict(stage.config.plain["stage"]["learning_rates"])


def refusal_of(*words: str) -> str:
    with pytest.raises(UserError) as told:
        stages_of(*words)
    return str(told.value)


def test_the_words_for_parts_are_those_of_the_model() -> None:
    assert PARTS == model_stages.PARTS


@pytest.mark.parametrize("scale", SCALES)
def test_a_parts_rate_has_one_name_at_every_scale(scale: Sequence[str]) -> None:
    words = ("exp=mix_doc", *scale)
    before = rates_of(*words)
    assert before.keys() == {"adapter", "projector"}
    assert rates_of(*words, "stage.learning_rates.adapter=7e-3") == before | {"adapter": 7e-3}
    for plus in ("", "+", "++"):
        unfrozen = rates_of(*words, f"{plus}stage.learning_rates.vision_tower=1e-5")
        assert unfrozen == before | {"vision_tower": 1e-5}, plus
    assert rates_of(*words, "stage.learning_rates.language_model=1e-5") == before | {"language_model": 1e-5}
    for frozen in ("~stage.learning_rates.projector", "stage.learning_rates.projector=null"):
        assert rates_of(*words, frozen) == {"adapter": before["adapter"]}, frozen
    assert rates_of(*words, "~stage.learning_rates.vision_tower") == before
    # Named as a whole it is the whole.
    assert rates_of(*words, "stage.learning_rates={projector: 0.5}") == {"projector": 0.5}


@pytest.mark.parametrize("scale", SCALES)
def test_a_rate_that_was_typed_holds_without_an_adapter_too(scale: Sequence[str]) -> None:
    words = ("exp=mix_doc", "adapter=none", *scale)
    before = rates_of(*words)
    assert before.keys() == {"projector", "language_model"}
    assert rates_of(*words, "stage.learning_rates.projector=0.25") == before | {"projector": 0.25}
    assert rates_of(*words, "~stage.learning_rates.language_model") == {"projector": before["projector"]}
    assert rates_of(*words, "stage.learning_rates={language_model: 0.5}") == {"language_model": 0.5}
    assert "adapter=none" in refusal_of(*words, "stage.learning_rates.adapter=1e-3")


@pytest.mark.parametrize("scale", SCALES)
def test_unknown_parts_and_stages_that_train_nothing_are_refused(scale: Sequence[str]) -> None:
    words = ("exp=mix_doc", *scale)
    assert "did you mean vision_tower?" in refusal_of(*words, "+stage.learning_rates.vision_towr=1e-5")
    assert "unknown key stage.learning_rates.nope" in refusal_of(*words, "~stage.learning_rates.nope")
    assert "nothing would train" in refusal_of(*words, "stage.learning_rates={}")
    assert "vision tower is frozen" in refusal_of(*words, "stage.vision_layers=[1,2]")
    line = refusal_of(*words, "stage.learning_rates.vision_tower=abc")
    assert line == "stage.learning_rates.vision_tower=abc: give a number of at least 0, or null"


def test_the_tower_of_sharegpt4vs_stage_is_frozen_by_one_word() -> None:
    for scale in SCALES:
        (stage,) = stages_of("exp=pretrain_sharegpt4v", "~stage.learning_rates.vision_tower", *scale)
        assert stage.config.plain["stage"]["learning_rates"].keys() == {"projector", "language_model"}
        assert stage.config.plain["stage"]["vision_layers"] is None


def test_in_an_experiment_of_stages_a_rate_goes_to_each_stage_that_trains_the_part() -> None:
    usual = [stage.config.plain["stage"]["learning_rates"] for stage in stages_of("exp=demo")]
    assert [rates.keys() for rates in usual] == [{"projector"}, {"adapter", "projector"}]

    def told(*words: str) -> list[dict[str, float]]:
        return [stage.config.plain["stage"]["learning_rates"] for stage in stages_of("exp=demo", *words)]

    assert told("stage.learning_rates.adapter=7e-3") == [usual[0], usual[1] | {"adapter": 7e-3}]
    assert told("stage.learning_rates.projector=7e-3") == [{"projector": 7e-3}, usual[1] | {"projector": 7e-3}]
    # The projector is all that the first stage trains.
    assert told("~stage.learning_rates.projector") == [usual[0], {"adapter": usual[1]["adapter"]}]


def test_a_name_of_an_earlier_release_works_and_says_the_name_of_today() -> None:
    old = "stage.demo.learning_rates.adapter=7e-3"
    assert rates_of("exp=mix_doc", "scale=demo", old)["adapter"] == 7e-3
    assert rates_of("exp=mix_doc", "scale=demo", "~stage.demo.learning_rates.projector").keys() == {"adapter"}
    words = ("exp=mix_doc", "scale=demo", "adapter=none")
    assert rates_of(*words, "stage.demo.without_adapter.projector=0.5")["projector"] == 0.5
    assert ["stage.learning_rates.adapter says it" in note for note in notes_on_old_words([old])] == [True]
    assert ["train.max_steps says it" in note for note in notes_on_old_words(["stage.demo.max_steps=3"])] == [True]
    assert not notes_on_old_words(["stage.learning_rates.adapter=1", "train.max_steps=3", "scale=demo"])


UNFROZEN = (
    *("stage.learning_rates.vision_tower=1e-2", "+stage.learning_rates.language_model=1e-3"),
    *("train.save_every=2", "adapter.lora_dropout=0.1"),
)


@pytest.mark.parametrize("adapter", ["lora", "llava_mole"])
def test_a_run_with_every_part_unfrozen_resumes_scores_and_exports(
    adapter: str,
    tiny_words: list[str],
    tmp_path: Path,
    command_server: CommandServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [*tiny_words, *UNFROZEN, f"adapter={adapter}"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(["train", *words, f"out={whole}"]) == 0
    tensors = load_file(whole / "checkpoints/step-000006/model/base.safetensors")
    first = load_file(whole / "checkpoints/step-000004/model/base.safetensors")
    unread = [name for name in tensors if "post_layernorm" in name]
    assert not unread and any("vision_tower" in name for name in tensors)
    moved = [name for name, tensor in tensors.items() if not tensor.equal(first[name])]
    for part in ("vision_tower.embeddings.patch", "encoder.layers.0", "language_model.layers.0", "lm_head"):
        assert any(part in name for name in moved), part
    stop_after(2, words, broken, command_server)
    assert run(["train", *words, f"out={broken}"]) == 0
    assert_same_run(whole, broken)
    export = ["export", f"run={whole}", f"out={tmp_path / 'exported'}"]
    if adapter == "lora":
        assert run(["eval", f"run={whole}", "benchmarks=[demo]", "limit=1"]) == 0
        assert run([*export, "to=hf"]) == 0
        assert run(["export", f"run={whole}", "to=peft", f"out={tmp_path / 'peft'}"]) == 0
    else:
        assert run([*export, "to=peft"]) == 0
    assert "logits differ by at most" in capfd.readouterr().out


def stop_after(step: int, words: Sequence[str], folder: Path, command_server: CommandServer) -> None:
    """Kill a run once it has logged a step and has a checkpoint."""
    process = command_server.start(["train", *words, "data.num_workers=0", f"out={folder}"])
    deadline = time.monotonic() + 120
    while num_logged(folder) < step or not (folder / "checkpoints" / "last").is_file():
        assert process.poll() is None, process.errors
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_layers_range_trains_those_layers_alone(tiny_words: list[str], tmp_path: Path) -> None:
    words = [*tiny_words, "stage.learning_rates.vision_tower=1e-3", "stage.vision_layers=[1,1]", "train.max_steps=1"]
    assert run(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    names = load_file(tmp_path / "run/checkpoints/step-000001/model/base.safetensors").keys()
    assert names and all("encoder.layers.1." in name for name in names)


def test_layers_that_the_tower_lacks_are_named(tiny_words: list[str], refused: Refusal, tmp_path: Path) -> None:
    words = [*tiny_words, "stage.learning_rates.vision_tower=1e-3", "stage.vision_layers=[1,9]"]
    assert "are 0 to 1" in refused("train", *words, f"out={tmp_path / 'run'}")


def test_what_was_unfrozen_starts_another_run(tiny_words: list[str], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    unfrozen = ["stage.learning_rates.vision_tower=1e-2", "adapter=none", "train.max_steps=2"]
    assert run(["train", *tiny_words, *unfrozen, f"out={first}"]) == 0
    words = [*tiny_words, "adapter=lora", f"init_from={first}", "train.max_steps=1", f"out={second}"]
    assert run(["train", *words]) == 0
    from llava_moe.assemble import restore

    trained = load_file(first / "checkpoints/step-000002/model/base.safetensors")
    parameters = dict(restore(second, torch.device("cpu")).model.named_parameters())
    towers = [name for name in trained if "vision_tower" in name]
    assert towers and all(parameters[name].equal(trained[name]) for name in towers)
    assert json.loads((second / "environment.json").read_text())["start"]
