"""Every configuration composes, and every experiment builds its typed objects, at full size and at demo scale."""

from __future__ import annotations

import copy
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir

from llava_moe.assemble import ADAPTERS, ModelSpec, from_target, model_spec_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.settings import mixture_of, optimizer_of, settle
from llava_moe.data.source_index import SourceIndex
from llava_moe.datatools.prepare.recipe import recipes_folder
from llava_moe.errors import UserError
from llava_moe.model import TrainableParts
from llava_moe.run_config import RunConfig

NAMED_BY_THE_INTERFACE = {
    *("demo", "pretrain_llava_558k", "pretrain_sharegpt4v", "mix_general", "mix_doc", "mix_med", "mix_general_doc"),
    *("mix_general_med", "mix_general_doc_med"),
}
MIXES_OF_THE_PAPER = {"mix_doc_med", "mix_general_doc_med_half", "mix_general_doc_med_double", "mix_general_double_doc"}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def composed(*words: str) -> dict[str, Any]:
    return settle(copy.deepcopy(composed_once(*words)))


@cache
def composed_once(*words: str) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return resolved(compose("train", [prepare_override(word) for word in words]))


def build_all(config: dict[str, Any]) -> ModelSpec:
    recipe = model_spec_of(RunConfig.of(config))
    mixture_of(RunConfig.of(config))
    optimizer_of(RunConfig.of(config))
    layers = config["stage"]["vision_layers"]
    TrainableParts(config["stage"]["learning_rates"], None if layers is None else tuple(layers))
    return recipe


def test_the_experiments_of_the_interface_exist() -> None:
    assert set(names("exp")) >= NAMED_BY_THE_INTERFACE | MIXES_OF_THE_PAPER


@pytest.mark.parametrize("experiment", names("exp"))
def test_every_experiment_composes_at_every_scale(experiment: str) -> None:
    for words in ((), ("scale=demo",), ("scale=evening",)):
        build_all(composed(f"exp={experiment}", *words))


@pytest.mark.parametrize("experiment", ["pretrain_sharegpt4v", "mix_general_doc_med"])
@pytest.mark.parametrize("adapter", names("adapter"))
def test_an_experiment_takes_every_adapter_at_both_scales(experiment: str, adapter: str) -> None:
    experts = ("adapter.experts=[runs/one,runs/two]",) if adapter == "mole" else ()
    for words in ((), ("scale=demo",)):
        build_all(composed(f"exp={experiment}", f"adapter={adapter}", *experts, *words))


def test_no_experiment_sets_what_only_one_adapter_has() -> None:
    for name in names("exp"):
        assert "adapter" not in yaml.safe_load((config_folder() / "exp" / f"{name}.yaml").read_text()), name


def lora_of(*words: str) -> tuple[int, float]:
    adapter = from_target(composed(*words)["adapter"], ADAPTERS)
    return adapter.r, adapter.lora_alpha


def test_llava_1_5s_own_mix_has_its_scripts_lora_and_takes_every_adapter_at_both_scales() -> None:
    for words in ((), ("adapter=lora",), ("scale=demo",), ("scale=demo", "adapter=lora")):
        assert lora_of("exp=llava_mix665k", *words) == (128, 256), words
        assert lora_of("exp=mix_general", "adapter=lora", *words) == (32, 64), words
    assert lora_of("exp=llava_mix665k", "adapter.r=8", "adapter.lora_alpha=4") == (8, 4)
    script = composed("exp=llava_mix665k")
    assert script["stage"]["learning_rates"] == {"adapter": 2e-4, "projector": 2e-5}
    assert (script["train"]["global_batch_size"], script["train"]["epochs"]) == (128, 1)
    assert (script["train"]["gradient_clipping"], script["adapter"]["lora_dropout"]) == (0.0, 0.05)
    for adapter in ("llava_mole", "mixlora", "none"):
        for scale in ((), ("scale=demo",)):
            words = (f"adapter={adapter}", *scale)
            ours, others = composed("exp=llava_mix665k", *words), composed("exp=mix_general", *words)
            build_all(ours)
            assert ours["adapter"] == others["adapter"], words


def test_every_adapters_yaml_says_its_values_itself() -> None:
    for name in names("adapter"):
        assert "${" not in (config_folder() / "adapter" / f"{name}.yaml").read_text(), name


def test_every_file_of_sizes_is_of_an_experiment_and_an_adapter() -> None:
    pairs = {f"{experiment}_{adapter}" for experiment in names("exp") for adapter in names("adapter")}
    assert set(names("sizes")) <= pairs


def test_conditional_mixlora_does_not_clip_as_its_zero3_file_does_not() -> None:
    config = composed("exp=mixlora_vision_flan")
    assert (config["train"]["gradient_clipping"], config["train"]["max_length"]) == (0.0, 1792)
    assert config["stage"]["learning_rates"] == {"adapter": 4e-5, "projector": 4e-5}


@pytest.mark.parametrize("experiment", [name for name in names("exp") if name.startswith("mix_")])
def test_llava_moles_second_hand_settings_are_one_word_on_each_of_its_mixes(experiment: str) -> None:
    stand_in, told = (composed(f"exp={experiment}", *word) for word in ((), ("stage=instruct_llava_mole",)))
    assert told["stage"]["learning_rates"] == {"adapter": 2e-5, "projector": 2e-5}
    assert (stand_in["train"]["global_batch_size"], told["train"]["global_batch_size"]) == (128, 64)
    told["stage"]["learning_rates"] = stand_in["stage"]["learning_rates"]
    told["train"]["global_batch_size"] = 128
    assert told == stand_in, "nothing else differs"
    demo = [composed(f"exp={experiment}", "scale=demo", *word) for word in ((), ("stage=instruct_llava_mole",))]
    assert demo[0] == demo[1]
    comment = (config_folder() / "exp" / f"{experiment}.yaml").read_text().replace("\n# ", " ")
    assert "stage=instruct_llava_mole takes what a digest of the paper tells instead: rate 2e-5, batch 64." in comment


@pytest.mark.parametrize("model", names("model"))
def test_every_experiment_takes_every_model(model: str) -> None:
    build_all(composed("exp=mix_general_doc_med", f"model={model}"))


@pytest.mark.parametrize("parallel", names("parallel"))
def test_every_parallel_setting_composes(parallel: str) -> None:
    assert composed(f"parallel={parallel}")["parallel"]["stage"] in (0, 1, 2, 3)


def test_the_headline_is_llava_mole_of_three_domains_on_vicuna_7b() -> None:
    config = composed("exp=mix_general_doc_med")
    assert from_target(config["adapter"], ADAPTERS).num_experts == 3
    assert (config["adapter"]["r"], config["adapter"]["lora_alpha"]) == (32, 64)
    assert config["stage"]["learning_rates"] == {"adapter": 2e-4, "projector": 2e-5}
    assert config["train"]["global_batch_size"] == 128
    assert config["train"]["gradient_clipping"] == 0.0
    assert config["model"]["architecture"]["language_model"] == "lmsys/vicuna-7b-v1.5"
    assert [s.name for s in mixture_of(RunConfig.of(config)).sources] == ["m3it", "sharegpt4v_ft", "ureader", "pathvqa"]
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
    assert [source.domain for source in mixture_of(RunConfig.of(demo)).sources] == ["documents"]


def test_scale_evening_is_scale_demo_with_more_steps() -> None:
    for experiment in ("pretrain_llava_558k", "pretrain_sharegpt4v", "mix_doc"):
        demo, evening = (composed(f"exp={experiment}", f"scale={scale}") for scale in ("demo", "evening"))
        assert evening["train"]["max_steps"] > demo["train"]["max_steps"], experiment
        demo["train"]["max_steps"] = evening["train"]["max_steps"]
        assert evening == demo, experiment


def test_one_experiment_picks_its_domains_and_ones_own_data_is_taken_whole(tmp_path: Path) -> None:
    assert [
        source.domain for source in mixture_of(RunConfig.of(composed("exp=mix_general_med", "scale=demo"))).sources
    ] == [
        "general",
        "medical",
    ]
    odd = str(tmp_path / "a, 'b' = ${c}.json")
    (source,) = mixture_of(RunConfig.of(composed("exp=mix_doc", "data=mine", f"path={odd}"))).sources
    assert source.path == odd


@pytest.mark.parametrize("data", sorted(set(names("data")) - {"demo", "demo_six", "mine", "conflict"}))
def test_published_data_is_looked_for_in_prepared_folders_under_one_root(data: str) -> None:
    for root in ("data", "/mnt/my data, all of it"):
        words = () if root == "data" else (f"data.root={root}",)
        for source in mixture_of(
            RunConfig.of(composed("exp=mix_general", f"data={data}", "domains=null", *words))
        ).sources:
            assert (source.path, source.format, source.images) == (f"{root}/{source.recipe}", "auto", None)
            assert source.recipe is not None
            recipe = read_recipe(source.recipe)
            assert source.split == ("train" if len(recipe.splits) > 1 else None)


def read_recipe(name: str) -> Any:
    path = recipes_folder() / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.RECIPE.name == name
    return module.RECIPE


def test_a_raw_download_takes_the_place_of_a_prepared_folder() -> None:
    words = ("data.sources.m3it.format=m3it", "data.sources.m3it.path=raw/m3it")
    first, *others = mixture_of(RunConfig.of(composed("exp=mix_general", *words))).sources
    assert (first.format, first.path) == ("m3it", "raw/m3it")
    assert [source.path for source in others] == ["data/sharegpt4v_ft"]


def test_a_root_that_no_source_lies_under_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.root=/mnt is not read by the data that was chosen"):
        composed("exp=mix_general", "scale=demo", "data.root=/mnt")


SIZES = {"m3it": 1_592_320, "sharegpt4v_ft": 665_000, "ureader": 654_840, "pathvqa": 19_654}
AN_EPOCH = {"general": 2_257_320, "documents": 1_100_131, "medical": 399_959}


def mixes() -> list[str]:
    return [name for name in names("exp") if name.startswith("mix_")]


@pytest.mark.parametrize("experiment", mixes())
def test_a_mix_takes_of_its_domains_what_its_name_and_its_comment_say(experiment: str) -> None:
    wanted: dict[str, float] = {}
    factor = 1.0
    for word in experiment.removeprefix("mix_").split("_"):
        if word in ("half", "double"):
            factor = 0.5 if word == "half" else 2.0
        else:
            wanted[{"doc": "documents", "med": "medical"}.get(word, word)] = factor
            factor = 1.0
    # A word at the end is about all.
    wanted = {domain: share * factor for domain, share in wanted.items()}
    mixture = mixture_of(RunConfig.of(composed(f"exp={experiment}")))
    counts = mixture.counts([index_of_size(SIZES[source.name]) for source in mixture.sources])
    given = dict.fromkeys(wanted, 0)
    for source, count in zip(mixture.sources, counts, strict=True):
        given[source.domain] += count
    assert {domain: round(AN_EPOCH[domain] * share) for domain, share in wanted.items()} == pytest.approx(given, abs=1)
    comment = (config_folder() / "exp" / f"{experiment}.yaml").read_text()
    told = [f"{given[domain]:,}" if domain != "general" else f"{given[domain] / 1e6:.2f} M" for domain in given]
    assert "# An epoch: " + ", ".join(f"{domain} {count}" for domain, count in zip(given, told, strict=True)) in comment
    if len(given) > 1:
        assert f"; {sum(counts) / 1e6:.2f} M in all." in comment


def index_of_size(size: int) -> SourceIndex:
    one = np.zeros(size, dtype=np.int8)
    return SourceIndex(one, one, one, one, one, one, size, 0, ())


def test_domain_scale_multiplies_repeats_caps_and_weights_of_a_domain() -> None:
    words = ("data.sources.pathvqa.cap=100", "data.sources.pathvqa.weight=3", "domain_scale={medical: 0.5}")
    before, after = (
        mixture_of(RunConfig.of(composed("exp=mix_general_doc_med", *some))) for some in (words[:2], words)
    )
    assert [(s.repeats, s.cap, s.weight) for s in before.sources[3:]] == [(20.35, 100, 3.0)]
    assert [(s.repeats, s.cap, s.weight) for s in after.sources[3:]] == [(10.175, 50, 1.5)]
    assert before.sources[:3] == after.sources[:3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("domain_scale={documents: 2.0}",), "domain_scale: documents is not a domain of this data: it has general"),
        (("domain_scale={general: 0}",), "domain_scale.general=0: give a number above 0"),
        (("domain_scale=2",), "domain_scale=2: give a mapping"),
        (
            ("domain_scale={general: 2}", "data.epoch_samples=9", "data.phases=[{share: 1, weights: {general: 1}}]"),
            "domain_scale and data.phases: phases say the weights themselves",
        ),
        (("data.held_out=1",), "data.held_out=1: give a number of at least 0 and at most 0.9"),
        (("data.root=null",), "data.root=null: give text"),
        (("data.phases=half",), "data.phases=half: give a list"),
        (("data.phases=[half]",), "data.phases=['half']: give a list"),
        (("data.phases=[{share: 1}]", "data.epoch_samples=9"), "data.phases[0].weights must be given"),
        (("data.phases=[{share: 2, weights: {general: 1}}]",), "data.phases[0].share=2: give a number above 0"),
        (("data.phases=[{share: 1, weights: {general: -1}}]",), "data.phases[0].weights.general=-1: give"),
        (
            ("data.phases=[{share: 1, wights: {}}]",),
            "unknown key data.phases[0].wights (did you mean weights?)",
        ),
        (("data.phases=[{share: 1, weights: {general: 1}}]",), "data.phases are shares of an epoch of a fixed size"),
    ],
)
def test_a_schedule_or_scale_that_makes_no_sense_is_refused_in_a_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        mixture_of(RunConfig.of(composed("exp=mix_general", *words)))
    assert str(refusal.value).startswith(message) and "\n" not in str(refusal.value)


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
        recipe = model_spec_of(RunConfig.of(config))
        with torch.device("meta"):
            base = build_base(recipe.architecture, torch.bfloat16)
            attached = attach(base.model, recipe.adapter)
        assert attached.num_parameters / 1e6 == pytest.approx(millions, abs=0.06)
