"""What ``plan`` and ``data check|stats|preview`` share: train's words with a few of their own, settled into one job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.as_typed import as_typed, set_key
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import compose_again, resolved, run_composed
from llava_moe.config.limits import Limit
from llava_moe.config.nearest_key import suggest
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig
from llava_moe.runs.out_folder import refuse_unwritable
from llava_moe.runs.stages import Stage, plan_stages
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.text.shell_words import shell
from llava_moe.text.structured_text import parse_yaml

FOLDER = Path("stats")


@dataclass(frozen=True)
class DataJob:
    """What was asked for.

    Attributes:
        choices: the command's own settings.
        config: the experiment's own configuration.
        stages: its stages, in order.
        folder: where files go.
        words: train's words as they were typed, for commands to type next.
    """

    choices: Mapping[str, Any]
    config: RunConfig
    stages: tuple[Stage, ...]
    folder: Path
    words: str


def run_job(name: str, words: Sequence[str], limits: Mapping[str, Limit], job: Callable[[DataJob], int]) -> int:
    """Split a command's own words from train's, settle both, and run the job.

    Args:
        name: the command's primary configuration, whose keys are its own words.
    """
    own = [word for word in words if set_key(word) in limits]
    rest = [word for word in words if set_key(word) not in limits]
    refuse_misspelt(rest, limits)

    def run(config: DictConfig, train_words: list[str]) -> int:
        choices = resolved(compose_again(name, [word.lstrip("+") for word in own]), name)
        check_settings(choices, limits)
        plain = resolved(config)
        stages = tuple(plan_stages(plain, train_words))
        named = stages[0].folder if plain["stages"] is None else stages[0].folder.parent
        folder = Path(choices["out"]) if choices["out"] else FOLDER / named.name
        if choices["out"]:
            refuse_unwritable(folder)
        with StopSignals(lambda: ""):
            return job(DataJob(choices, RunConfig.of(plain), stages, folder, shell(*map(as_typed, rest))))

    return run_composed("train", rest, run)


def refuse_misspelt(words: Sequence[str], limits: Mapping[str, Limit]) -> None:
    """Refuse a word that no command has but that is nearly one of this command's own, which train does not know."""
    folder = config_folder()
    theirs = {*parse_yaml((folder / "train.yaml").read_bytes())}
    theirs |= {path.name for path in folder.iterdir() if path.is_dir()}
    for word in words:
        key = set_key(word)
        if "=" not in word or not key.isidentifier() or key in theirs:
            continue
        if near := suggest(key, [*theirs, *limits]):
            raise UserError(f"unknown key {key}{near}")
