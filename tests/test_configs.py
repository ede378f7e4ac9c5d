"""Every configuration composes, and every experiment builds its typed objects, at full size and at demo scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from llava_moe.assemble import Recipe, from_target, recipe_of
from llava_moe.cli import config_folder, prepare_override
from llava_moe.commands.compose_config import resolved
from llava_moe.commands.settings import mixture_of, optimizer_of, settle
from llava_moe.errors import UserError
from llava_moe.model import TrainableParts

NAMED_BY_THE_INTERFACE = {
    *("demo", "pretrain_llava_558k", "pretrain_sharegpt4v", "mix_general", "mix_doc", "mix_med", "mix_general_doc"),
    *("mix_general_med", "mix_general_doc_med"),
}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def composed(*words: str) -> dict:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return settle(resolved(compose("train", [prepare_override(word) for word in words])))


def build_all(config: dict) -> Recipe:
    recipe = recipe_of(config)
    mixture_of(config)
    optimizer_of(config)
    layers = config["stage"]["vision_layers"]
    TrainableParts(config["stage"]["learning_rates"], None if layers is None else tuple(layers))
    return recipe


def test_the_experiments_of_the_interface_exist() -> None:
    assert set(names("exp")) >= NAMED_BY_THE_INTERFACE


@pytest.mark.parametrize("experiment", names("exp"))
@pytest.mark.parametrize("adapter", names("adapter"))
def test_every_experiment_takes_every_adapter_at_both_scales(experiment: str, adapter: str) -> None:
    experts = ("adapter.experts=[runs/one,runs/two]",) if adapter == "mole" else ()
    for words in ((), ("scale=demo",)):
        build_all(composed(f"exp={experiment}", f"adapter={adapter}", *experts, *words))


@pytest.mark.parametrize("model", names("model"))
def test_every_experiment_takes_every_model(model: str) -> None:
    build_all(composed("exp=mix_general_doc_med", f"model={model}"))


@pytest.mark.parametrize("parallel", names("parallel"))
def test_every_parallel_setting_composes(parallel: str) -> None:
    assert composed(f"parallel={parallel}")["parallel"]["stage"] in (0, 1, 2, 3)


def test_the_headline_is_llava_mole_of_three_domains_on_vicuna_7b() -> None:
    config = composed("exp=mix_general_doc_med")
    assert from_target(config["adapter"]).num_experts == 3
    assert (config["adapter"]["r"], config["adapter"]["lora_alpha"]) == (32, 64)
    assert config["stage"]["learning_rates"] == {"adapter": 2e-4, "projector": 2e-5}
    assert config["train"]["global_batch_size"] == 128
    assert config["train"]["gradient_clipping"] == 0.0
    assert config["model"]["architecture"]["language_model"] == "lmsys/vicuna-7b-v1.5"
    assert [s.name for s in mixture_of(config).sources] == ["m3it", "sharegpt4v_ft", "ureader", "pathvqa"]
    assert composed("exp=mix_general_doc_med", "adapter=none")["stage"]["learning_rates"] == {
        "projector": 2e-5,
        "language_model": 2e-5,
    }


def test_stage_one_is_llava_1_5s_and_sharegpt4vs_recipe() -> None:
    llava = composed("exp=pretrain_llava_558k")
    assert llava["stage"]["learning_rates"] == {"projector": 1e-3}
    assert (llava["stage"]["template"], llava["stage"]["image_mode"]) == ("plain", "crop")
    assert llava["train"]["global_batch_size"] == 256
    sharegpt4v = composed("exp=pretrain_sharegpt4v")
    assert set(sharegpt4v["stage"]["learning_rates"].values()) == {2e-5}
    assert sharegpt4v["stage"]["vision_layers"] == [12, 22]


def test_scale_demo_changes_model_data_and_schedule_and_nothing_else() -> None:
    full = composed("exp=mix_doc", "adapter=llava_mole")
    demo = composed("scale=demo", "exp=mix_doc", "adapter=llava_mole")
    for section in ("adapter", "parallel", "log", "domains", "seed", "eval"):
        assert full[section] == demo[section], section
    assert [source.domain for source in mixture_of(demo).sources] == ["documents"]


def test_one_experiment_picks_its_domains_and_ones_own_data_is_taken_whole(tmp_path: Path) -> None:
    assert [source.domain for source in mixture_of(composed("exp=mix_general_med", "scale=demo")).sources] == [
        "general",
        "medical",
    ]
    odd = str(tmp_path / "a, 'b' = ${c}.json")
    (source,) = mixture_of(composed("exp=mix_doc", "data=mine", f"path={odd}")).sources
    assert source.path == odd


def test_adapter_sizes_at_7b_are_the_papers(tokenizer_folder: Path) -> None:
    import torch

    from llava_moe.adapters import attach
    from llava_moe.model import build_base

    for adapter, millions in (("lora", 79.95), ("llava_mole", 173.1)):
        config = composed(
            "exp=mix_general_doc_med",
            "model=random_7b",
            f"model.architecture.tokenizer={tokenizer_folder}",
            f"adapter={adapter}",
        )
        recipe = recipe_of(config)
        with torch.device("meta"):
            base = build_base(recipe.architecture, torch.bfloat16)
            attached = attach(base.model, recipe.adapter)
        assert attached.num_parameters / 1e6 == pytest.approx(millions, abs=0.06)
