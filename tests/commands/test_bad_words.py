"""Words that make no sense: unknown keys, values out of bounds, files of one's own that hold a mistake."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from llava_moe.assemble import model_spec_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved, split_flags
from llava_moe.config.known_keys import dotted
from llava_moe.config.nearest_key import ELSEWHERE
from llava_moe.config.settings import mixture_of, settle
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig

Refused = Callable[..., str]


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("evaluate", "eval"), ("docter", "doctor")])
def test_an_unknown_command_is_answered_with_the_nearest(typed: str, meant: str, refused: Refused) -> None:
    assert f"{typed} is not a command (did you mean {meant}?)" in refused(typed)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("lr=1e-3", "stage.learning_rates.adapter"), ("mm_projector_lr=1e-5", "stage.learning_rates.projector")),
        *(("image_folder=photos", "images"), ("data.path=a.json", "path"), ("output_dir=run", "out")),
        *(("lora_alpha=3", "adapter.lora_alpha"), ("num_train_epochs=3", "train.epochs")),
        ("train.max_step=3", "train.max_steps"),
        ("+train.max_step=3", "train.max_steps"),
        ("++train.max_step=3", "train.max_steps"),
        ("seeed=3", "seed"),
        ("+seeed=3", "seed"),
        ("adapter.num_expert=3", "adapter.num_experts"),
        ("+stage.learning_rate=1", "stage.learning_rates"),
        ("+data.max_bad=0.5", "data.max_bad_share"),
        ("data.sources.mine.repeat=2", "repeats"),
        ("+data.sources.mine.repeat=2", "repeats"),
        ("parallel.stages=2", "parallel.stage"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(
    typed: str, meant: str, refused: Refused, tiny_words: list[str]
) -> None:
    line = refused("train", *tiny_words, typed)
    key = typed.lstrip("+").partition("=")[0]
    assert f"unknown key {key} (did you mean {meant}?)" in line
    assert not Path("runs").exists()


def test_every_key_that_another_trainers_name_leads_to_is_one_of_ours() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        known = dotted(compose("train", ["adapter=lora"]))
    assert {*ELSEWHERE.values()} <= {*known} and not {*ELSEWHERE} & {*known}


@pytest.mark.parametrize("command", ["eval", "chat", "export"])
@pytest.mark.parametrize("word", ["exp=mix_general", "adapter=lora", "data=mine"])
def test_a_choice_that_a_command_does_not_have_is_an_unknown_key(command: str, word: str, refused: Refused) -> None:
    assert f"unknown key {word.partition('=')[0]}" in refused(command, "run=x", word)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["adapter=llava_mol"], "adapter=llava_mol does not exist (did you mean llava_mole?): llava-moe ls adapter"),
        (["exp=mix_medd"], "exp=mix_medd does not exist (did you mean mix_med?)"),
        (["adaptor=lora"], "unknown key adaptor (did you mean adapter?)"),
        (["~train.max_steps"], "train.max_steps is not set"),
        (["~adapter"], "adapter is not set"),
        (
            ["data=own"],
            "ls data lists them; FOLDER/data/own.yaml of your own is read with --config-dir FOLDER",
        ),
        (["stage.learning_rates.adaptor=1e-3"], "unknown key stage.learning_rates.adaptor (did you mean adapter?)"),
        (["+stage.learning_rates.lora=1"], "lora: the parts are adapter, projector, language_model, vision_tower"),
        (["~stage.learning_rates.nope"], "unknown key stage.learning_rates.nope: the parts are"),
        (["train=3"], "train=3: it holds settings, such as train.global_batch_size"),
        (["train.max_steps"], "cannot read train.max_steps: words are key=value"),
        (["demo"], "cannot read demo: words are key=value (did you mean exp=demo?)"),
        (["lora"], "cannot read lora: words are key=value (did you mean adapter=lora?)"),
        (["mix_medd"], "(did you mean exp=mix_med?)"),
        (["=x"], "a key is missing before ="),
        (["++"], "cannot read ++"),
        (["~"], "Could not delete ''"),
        (["~~train"], "cannot read ~~train"),
        (["a=b=c"], "cannot read a=b=c: write key=value"),
        (["seed='"], "cannot read seed='"),
        (["-prompt=x"], "unrecognized arguments: -prompt=x"),
        (["seed=1,2"], "seed=1,2 gives several values: add -m to run each"),
        (["seed=choice(1,2)"], "seed=choice(1,2) gives several values: add -m"),
        (["+stage=${oc.decode:'1'}"], "a name stands there, of a file stage/NAME.yaml; llava-moe ls stage lists them"),
        (["adapter=null"], "adapter=null: a name stands there"),
        (["adapter=[lora,none]"], "adapter=[lora,none]: a name stands there"),
        (["data=/abs/mix.yaml"], "data=/abs/mix.yaml: no such file; llava-moe init mix.yaml NAME=DATA ... writes one"),
        (
            ["data=train.json"],
            "data=train.json: a name stands there, of a file data/NAME.yaml; for records of your own: pa",
        ),
        (["exp=mix.yaml"], "add --config-dir FOLDER exp=mix"),
        (["exp=../train"], "exp=../train: a name stands there"),
        (["model=/abs/path"], "for a checkpoint: model.path=/abs/path"),
        (["adapter=runs/x"], "to start from a run's adapter: init_from=RUN"),
        (["path=[a.json,b.json]"], "path=[a.json,b.json]: one file, a folder of files or a pattern"),
        (["path={a: b.json}"], "data source 'a': no file b.json; check path"),
        (["images=[a,b]"], "images=[a,b]: one folder stands there"),
        (["data.sources={}", "path=null", "images=null"], "data.sources"),
        (["stages=[]"], "stages=[]: give a list [...] of one or more"),
        (["stages=[{name: 1-a, overrides: [1], ignores: []}]"], "must have a name and the lists"),
        (["seed=99999999999999999999999999"], "seed=99999999999999999999999999: give a whole number"),
        (["seed=1e400"], "seed=inf: give a whole number"),
        (["train.warmup_ratio=" + "9" * 400], "give a number of at least 0 and at most 1"),
        (["train.max_steps=0x10"], "train.max_steps=0x10: give a whole number"),
        (["train.epochs=1000000000"], "train.epochs=1000000000: give a whole number"),
        (["seed=${.x}"], "Interpolation key 'x' not found in seed"),
        (["seed=${seed}"], "Recursive interpolation detected in seed"),
        (["seed=${nosuch:1}"], "Unsupported interpolation type nosuch in seed"),
        (["model.architecture._target_=os.system"], "_target_=os.system is none of llava_moe.model.FromParts,"),
        (["adapter._target_=llava_moe.adapters.attach"], "_target_=llava_moe.adapters.attach is none of"),
        (["adapter._target_=llava_moe.model.FromShape"], "_target_=llava_moe.model.FromShape is none of"),
        (["train.betas=[1,"], "cannot read train.betas=[1,"),
        (["seed=${nowhere}"], "Interpolation key 'nowhere' not found in seed"),
        (["stages=[{name: a}]"], "stages"),
        (["--foo"], "unrecognized arguments: --foo"),
        (["--experimental-rerun", "config.pickle"], "unrecognized arguments: --experimental-rerun; the flags are -m,"),
        (["--experimental-rerun=config.pickle"], "unrecognized arguments: --experimental-rerun=config.pickle"),
        (["--experimental", "config.pickle"], "unrecognized arguments: --experimental"),
        (["--config-name", "eval"], "unrecognized arguments: --config-name"),
        (["-cn", "eval"], "unrecognized arguments: -cn"),
        (["--run"], "unrecognized arguments: --run"),
        (["--package", "train"], "unrecognized arguments: --package"),
        (["--shell-completion"], "unrecognized arguments: --shell-completion"),
        (["--hydra-help"], "unrecognized arguments: --hydra-help"),
        (["--version"], "unrecognized arguments: --version"),
        (["-mr"], "unrecognized arguments: -mr"),
        (["--multi"], "unrecognized arguments: --multi"),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["--config-dir", "/nowhere"], "'/nowhere' not found"),
        (["--cfg", "job", "-m"], "Only one of"),
    ],
)
def test_a_word_that_makes_no_sense_is_refused_before_anything_is_written(
    words: list[str], told: str, refused: Refused, tiny_words: list[str]
) -> None:
    assert told in refused("train", *tiny_words, *words)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train:\n  max_step: 3\n", "did you mean train.max_steps?"),
        ("data:\n  max_bad: 3\n", "data.max_bad (did you mean data.max_bad_share?)"),
        ("adapter:\n  num_expert: 3\n", "did you mean num_experts?"),
        ("stage:\n  text_kind: 3\n", "stage.text_kind"),
        ("sead: 3\n", "sead (did you mean seed?)"),
        ("defaults:\n  - override /adapter: lorra\n", "adapter=lorra does not exist (did you mean lora?)"),
        ("train: [1\n", "not valid YAML"),
        (None, "exp=own does not exist"),
    ],
)
def test_a_mistake_in_ones_own_experiment_file_is_told_like_one_on_the_command_line(
    text: str | None, told: str, refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "exp").mkdir(parents=True)
    if text is not None:
        (tmp_path / "own" / "exp" / "own.yaml").write_text("# @package _global_\n" + text)
    assert told in refused("train", *tiny_words, "exp=own", "--config-dir", str(tmp_path / "own"), "seed=1")


def test_an_experiment_file_that_does_not_say_where_it_belongs_is_refused(
    refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "own" / "exp").mkdir(parents=True)
    (tmp_path / "own" / "exp" / "own.yaml").write_text("train:\n  max_steps: 3\n")
    line = refused("train", *tiny_words, "--config-dir", str(tmp_path / "own"), "exp=own")
    assert "# @package _global_" in line


def test_ones_own_file_that_lacks_a_key_is_told_which(refused: Refused, tiny_words: list[str], tmp_path: Path) -> None:
    for group, text, told in (
        ("data", "held_out: 0.1\n", r"own/data/own\.yaml: holds no sources"),
        ("parallel", "stage: 0\n", r"parallel\.\w+ is not set: .*, such as "),
    ):
        (tmp_path / "own" / group).mkdir(parents=True)
        (tmp_path / "own" / group / "own.yaml").write_text(text)
        words = [word for word in tiny_words if not word.startswith(f"{group}.")]
        line = refused("train", *words, "--config-dir", str(tmp_path / "own"), f"{group}=own")
        assert re.search(told, line), line


def test_ones_own_data_file_needs_its_sources_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "own.yaml").write_text("sources:\n  scans: {domain: medical, path: scans.parquet}\n")
    places = f"hydra.searchpath=['file://{tmp_path}']"
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        own, shipped = (resolved(compose("train", [f"data={name}", "path=x", places])) for name in ("own", "mine"))
    assert own["data"].pop("sources") == {"scans": {"domain": "medical", "path": "scans.parquet"}}
    del shipped["data"]["sources"]
    assert own["data"] == shipped["data"]


VALUES = [
    *("seed=-1", "seed=abc", "seed=1.5", "out=", "init_from=", "path=", "domains=general", "stages=3", "model.path="),
    *("train.global_batch_size=0", "train.global_batch_size=abc", "train.global_batch_size=1.5"),
    *("train.max_steps=-1", "train.max_steps=0", "train.max_steps=abc", "train.max_steps=true"),
    *("train.epochs=-1", "train.epochs=1.5", "train.save_every=-1", "train.keep_last=0", "train.num_threads=0"),
    *("train.max_length=0", "train.tokens_per_micro_batch=-5", "train.warmup_ratio=2", "train.dtype=fp8"),
    *("train.gradient_clipping=-1", "train.betas=[0.9]", "train.betas=[0.9,1.5]", "train.epsilon=abc"),
    *("train.over_length=chop", "train.activation_checkpointing=maybe", "train.max_nonfinite_steps=-1"),
    *("log.every=0", "log.wandb=offlin", "log.tensorboard=maybe", "eval.benchmarks=demo", "eval.limit=-1"),
    *("data.num_workers=-1", "data.max_bad_share=5", "data.max_bad_share=abc", "data.temperature=0"),
    *("data.epoch_samples=0", "data.weights=abc", "data.sources=null", "data.sources.mine.cap=0"),
    *("data.sources.mine.repeats=abc", "stage.learning_rates={adapter: -1}", "stage.learning_rates={adapter: a}"),
    *("stage.vision_layers=[1]", "parallel.engine=foo", "adapter.r=0", "adapter.router=foo", "adapter.num_experts=0"),
]


@pytest.fixture(scope="module")
def composed(tokenizer_folder: Path) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        words = ["exp=mix_general", "scale=demo", "model=tiny", "data=mine", "path=train.json"]
        return compose("train", [*words, f"model.architecture.tokenizer={tokenizer_folder}"])


@pytest.mark.parametrize("word", VALUES)
def test_a_value_out_of_bounds_is_named_with_what_it_may_be(word: str, composed: DictConfig) -> None:
    key, _, value = word.partition("=")
    config = composed.copy()
    OmegaConf.update(config, key, yaml.safe_load(value) if value else value, force_add=True)
    with pytest.raises(UserError) as caught:
        plain = settle(resolved(config))
        mixture_of(RunConfig.of(plain))
        model_spec_of(RunConfig.of(plain))
    line = str(caught.value)
    assert key in line and "\n" not in line
    assert re.search("give|choose|must be", line), line


@pytest.mark.parametrize(
    "word", ["train.global_batch_size=0", "train.max_steps=-1", "train.max_length=300", "adapter.r=0", "log.every=0"]
)
def test_a_silly_number_is_refused_before_anything_is_written(
    word: str, refused: Refused, tiny_words: list[str]
) -> None:
    assert word.partition("=")[0] in refused("train", *tiny_words, word)
    assert not Path("runs").exists()


def test_a_mistyped_benchmark_is_told_before_training_and_not_after(refused: Refused, tiny_words: list[str]) -> None:
    assert "nope does not exist" in refused("train", *tiny_words, "eval.benchmarks=[nope]")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "first"}, "the name 'first' must be a number, a dash and a word"),
        ({"overrides": ["adapter=lorra"]}, "adapter=lorra does not exist (did you mean lora?)"),
        ({"overrides": ["train.max_step=3"]}, "unknown key train.max_step (did you mean train.max_steps?)"),
        ({"overrides": "exp=mix_doc"}, "must have a name and the lists overrides and ignores"),
        ({"overrides": ["exp=demo"]}, "is itself an experiment of several stages"),
    ],
)
def test_a_stage_that_makes_no_sense_is_refused(
    change: dict[str, Any], told: str, tiny_words: list[str], two_stages: list[str], refused: Refused, tmp_path: Path
) -> None:
    file = tmp_path / "own" / "exp" / "two.yaml"
    stages = yaml.safe_load(file.read_text())["stages"]
    stages[1] |= change
    file.write_text("# @package _global_\n" + yaml.safe_dump({"stages": stages}))
    assert told in refused("train", *tiny_words, *two_stages)
    assert not Path("runs").exists()


@pytest.mark.parametrize("words", [["--info", "exp=mix_doc"], ["exp=mix_doc", "--info"], ["exp=mix_doc", "-i"]])
def test_info_without_a_value_stands_anywhere(words: list[str]) -> None:
    flag = next(word for word in words if word.startswith("-"))
    assert split_flags(words) == ([flag, "all"], ["exp=mix_doc"])


def test_a_word_of_any_size_is_answered_in_a_line_that_can_be_read(refused: Refused, tiny_words: list[str]) -> None:
    long = "x" * 5_000
    hostile = [f"hydra/launcher={long}", f"out={long}", f"init_from={long}", f"{long}{long}{long}=1", f"+{long}=1"]
    hostile += [f"path={long * 2_000}", "seed=" + "1" * 10_000_000, "seed=" + "9" * 5_000, f"exp={long}", long]
    hostile += ["+stage.learning_rates.adapter=" + "1" * 400, "stage.learning_rates={projector: " + "1" * 400 + "}"]
    hostile += ["train.betas=" + "[" * 100_000, "train.betas=" + "[" * 3_000 + "]" * 3_000, f"train.dtype={long}"]
    hostile += ["domain_scale=" + "{a:" * 2_000 + "1" + "}" * 2_000, f"data.sources.mine.images={long}"]
    for word in hostile:
        started = time.process_time()
        told = refused("train", *tiny_words, word)
        assert len(told) < 600, word[:50]
        assert time.process_time() - started < 5, word[:50]
    assert not Path("runs").exists()


HYDRAS_OWN = [
    "hydra.run.dir=called",
    "hydra.sweep.dir=called",
    "hydra.output_subdir=called",
    "hydra.job.chdir=true",
    "+hydra.job.env_set.LD_PRELOAD=x",
    "hydra.searchpath=[pkg://antigravity]",
    "hydra/job_logging=default",
    "++hydra.job_logging.handlers={a: {class: builtins.open, file: called, mode: w}}",
    "++hydra.hydra_logging.handlers={a: {class: builtins.open, file: called, mode: w}}",
    "++hydra.sweeper.own={_target_: builtins.open, file: called, mode: w}",
    "++hydra.launcher.own={_target_: builtins.open, file: called, mode: w}",
]


@pytest.mark.parametrize("flags", [[], ["-m", "seed=1,2"], ["--cfg", "job"]])
def test_settings_of_hydras_own_stay_as_ours_and_call_nothing(
    flags: list[str], refused: Refused, tiny_words: list[str]
) -> None:
    for word in HYDRAS_OWN:
        assert "hydra." in refused("train", *tiny_words, word, *flags), word
        assert not Path("called").exists() and not Path("runs").exists(), word


@pytest.mark.parametrize("flags", [[], ["-m", "seed=1,2"]])
@pytest.mark.parametrize("is_in_a_file", [False, True])
def test_a_callback_of_hydras_is_refused_before_it_is_called(
    is_in_a_file: bool, flags: list[str], refused: Refused, tiny_words: list[str], tmp_path: Path
) -> None:
    opened = {"_target_": "builtins.open", "file": str(tmp_path / "called"), "mode": "w"}
    words = [f"++hydra.callbacks.own={{{', '.join(f'{key}: {value}' for key, value in opened.items())}}}"]
    if is_in_a_file:
        (tmp_path / "own" / "exp").mkdir(parents=True)
        text = yaml.safe_dump({"hydra": {"callbacks": {"own": opened}}})
        (tmp_path / "own" / "exp" / "own.yaml").write_text("# @package _global_\n" + text)
        words = ["exp=own", "--config-dir", str(tmp_path / "own")]
    assert "hydra.callbacks calls whatever it names" in refused("train", *tiny_words, *words, *flags)
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("word", ["hydra.launcher._target_=os.system", "hydra.sweeper._target_=os.system"])
def test_a_launcher_that_is_no_plugin_is_one_line(word: str, refused: Refused, tiny_words: list[str]) -> None:
    assert "os.system" in refused("train", *tiny_words, word, "-m", "seed=1,2")
