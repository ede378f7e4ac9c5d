"""The stages that an experiment trains: each one's folder, resolved configuration and title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llava_moe.config.as_typed import key_of
from llava_moe.config.hydra_compose import compose_again, resolved
from llava_moe.config.key_limits import TRAIN
from llava_moe.config.settings import fingerprint, settle
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import STAGE_NAME
from llava_moe.run_config import RunConfig

RUNS = Path("runs")
LISTS = ("overrides", "ignores")


@dataclass(frozen=True)
class Stage:
    """A stage to run: its folder, resolved configuration, title, and the words that compose it."""

    folder: Path
    config: RunConfig
    title: str
    words: tuple[str, ...] = ()


def plan_stages(plain: dict[str, Any], words: Sequence[str], called: str | None = None) -> list[Stage]:
    """The stages of an experiment with their folders; an experiment without ``stages`` is one stage.

    Args:
        called: how the run's folder begins where ``out=`` names none; None: with the experiment's name.

    Raises:
        UserError: a value that a setting cannot have, or a stage that is not described as one.
    """
    check_settings(plain, TRAIN)
    name = experiment_name(words)
    if plain["stages"] is None:
        own = settle(plain, words)
        folder = Path(own["out"]) if own["out"] else RUNS / f"{called or name}-{fingerprint(own)}"
        return [Stage(folder, RunConfig.of(own), name, tuple(words))]
    configs: list[dict[str, Any]] = []
    composed_of: list[tuple[str, ...]] = []
    for entry in plain["stages"]:
        _check_entry(entry)
        ignored = ("exp", "out", *entry["ignores"])
        kept = [word for word in words if not any(_is_of(word, pattern) for pattern in ignored)]
        is_scaled = any(key_of(word) == "scale" for word in kept)
        child_words = (*(word for word in entry["overrides"] if not (is_scaled and key_of(word) == "scale")), *kept)
        child = settle(resolved(compose_again("train", child_words)), child_words)
        if child["stages"] is not None:
            raise UserError(f"stages: {entry['overrides']} is itself an experiment of several stages")
        configs.append(child)
        composed_of.append(child_words)
    for number in _without_measure(configs):
        configs[number]["eval"] |= {"every": 0, "best": None}
        composed_of[number] = (*composed_of[number], "eval.every=0", "eval.best=null")
    digest = fingerprint({str(number): _as_named(child) for number, child in enumerate(configs)})
    root = Path(plain["out"]) if plain["out"] else RUNS / f"{called or name}-{digest}"
    stages: list[Stage] = []
    for entry, child, child_words in zip(plain["stages"], configs, composed_of, strict=True):
        if stages:
            child["init_from"] = str(stages[-1].folder)
        stages.append(Stage(root / entry["name"], RunConfig.of(child), f"{name} {entry['name']}", child_words))
    return stages


def _as_named(child: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's configuration as experiments are named by it: without what came later and changes no result."""
    parallel, train = dict(child["parallel"]), dict(child["train"])
    if parallel["engine"] == "auto_deepspeed":
        parallel["engine"] = "auto"  # which meant this
    for section, later in (
        (train, ("stall_seconds", "rehearse", "async_save")),
        (parallel, ("join_seconds", "timeout_seconds")),
    ):
        for name in later:
            section.pop(name, None)
    return {**child, "parallel": parallel, "train": train}


def _without_measure(configs: Sequence[Mapping[str, Any]]) -> list[int]:
    """The stages whose data keep nothing apart, where those of another stage do: validations are left out of them.

    A mixture of one's own says ``held_out`` itself, and the stage of captions before it reads other data.
    """
    has_measure = [
        bool(one["eval"]["split"] or one["data"].get("held_out") or one["eval"]["during"]) for one in configs
    ]
    return [number for number, can in enumerate(has_measure) if not can] if any(has_measure) else []


def _check_entry(entry: Mapping[str, Any]) -> None:
    if set(entry) != {"name", "overrides", "ignores"} or not all(_is_words(entry[key]) for key in LISTS):
        raise UserError(f"stages: {dict(entry)} must have a name and the lists overrides and ignores, as in exp=demo")
    if not STAGE_NAME.fullmatch(str(entry["name"])):
        raise UserError(f"stages: the name {entry['name']!r} must be a number, a dash and a word, such as 1-pretrain")


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def experiment_name(words: Sequence[str]) -> str:
    """The ``exp=`` of the command line; ``demo`` without one."""
    named = [word.partition("=")[2] for word in words if key_of(word) == "exp"]
    return named[-1] if named else "demo"


def _is_of(word: str, pattern: str) -> bool:
    """Whether a word is of a stage's ``ignores``; a pattern that begins with ``~`` stands for words that take away."""
    takes_away = word.startswith("~") or word.endswith("=null")
    return fnmatchcase(key_of(word), pattern.lstrip("~")) and (takes_away or not pattern.startswith("~"))


def set_threads(config: RunConfig) -> None:
    """Bound torch's CPU threads where the configuration does."""
    if config.train.num_threads is not None:
        import torch

        torch.set_num_threads(config.train.num_threads)
