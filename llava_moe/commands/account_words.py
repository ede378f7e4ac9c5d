"""What ``data stats`` and ``data preview`` share: train's words with a few of their own, and stages opened by them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from omegaconf import DictConfig
from rich.console import Console

from llava_moe.account.seating import Seats
from llava_moe.assemble import encoder_of, recipe_of
from llava_moe.cli import config_folder
from llava_moe.commands.compose_config import compose_again, resolved, run_composed
from llava_moe.commands.console import open_console
from llava_moe.commands.known_keys import suggest
from llava_moe.commands.limits import Limit, check_settings
from llava_moe.commands.processes import Processes
from llava_moe.commands.stage import check_stage
from llava_moe.commands.stage_data import OpenData, open_data
from llava_moe.commands.stages import Stage, plan_stages, set_threads
from llava_moe.commands.typed_words import as_typed
from llava_moe.data.encode import Encoder
from llava_moe.errors import UserError
from llava_moe.structured_text import parse_yaml

FOLDER = Path("stats")
_MANY_WORDS = 60


@dataclass(frozen=True)
class Job:
    """What was asked for.

    Attributes:
        choices: the command's own settings.
        config: the experiment's own configuration.
        stages: its stages, in order.
        folder: where files go.
        words: train's words as they were typed, for commands to type next.
    """

    choices: Mapping[str, Any]
    config: Mapping[str, Any]
    stages: tuple[Stage, ...]
    folder: Path
    words: str


def run_job(name: str, words: Sequence[str], limits: Mapping[str, Limit], job: Callable[[Job], int]) -> int:
    """Split a command's own words from train's, settle both, and run the job.

    Args:
        name: the command's primary configuration, whose keys are its own words.
    """
    own = [word for word in words if _key(word) in limits]
    rest = [word for word in words if _key(word) not in limits]
    _refuse_misspelt(rest, limits)

    def run(config: DictConfig, train_words: list[str]) -> int:
        choices = resolved(compose_again(name, [word.lstrip("+") for word in own]), name)
        check_settings(choices, limits)
        plain = resolved(config)
        stages = tuple(plan_stages(plain, train_words))
        set_threads(plain)
        transformers.utils.logging.disable_progress_bar()
        named = stages[0].folder if plain["stages"] is None else stages[0].folder.parent
        folder = Path(choices["out"]) if choices["out"] else FOLDER / named.name
        return job(Job(choices, plain, stages, folder, shlex.join(as_typed(word) for word in rest)))

    return run_composed("train", rest, run)


def _refuse_misspelt(words: Sequence[str], limits: Mapping[str, Limit]) -> None:
    """Refuse a word that no command has but that is nearly one of this command's own, which train does not know."""
    folder = config_folder()
    theirs = {*parse_yaml((folder / "train.yaml").read_bytes())}
    theirs |= {path.name for path in folder.iterdir() if path.is_dir()}
    for word in words:
        key = _key(word)
        if "=" not in word or not key.isidentifier() or key in theirs:
            continue
        if near := suggest(key, [*theirs, *limits]):
            raise UserError(f"unknown key {key}{near}")


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def open_stage(stage: Stage, progress: Console) -> tuple[Encoder, OpenData]:
    """A stage's data with the encoder that training would have; no weight is read.

    Raises:
        UserError: what ``train`` would refuse, a missing file say.
    """
    # Files that are not there are told before a tokenizer is looked for, on a hub maybe.
    check_stage(stage.config | {"init_from": None})
    encoder = encoder_of(recipe_of(stage.config))
    alone = Processes(0, 1, torch.device("cpu"), "local")
    data = open_data(stage.config, encoder, alone, progress)
    # Where nobody watches what passes by, splits that are not read are named all the same.
    for records in data.records if progress.quiet else ():
        if records.unread is not None:
            open_console().print(records.unread, soft_wrap=True)
    return encoder, data


def seats_of(stage: Stage, encoder: Encoder, num_ranks: int) -> Seats:
    """How training on ``num_ranks`` devices would seat samples."""
    engine, train = stage.config["parallel"]["engine"], stage.config["train"]
    needs_image = engine == "deepspeed" or (engine == "auto" and num_ranks > 1)
    return Seats(
        samples_per_step=train["global_batch_size"],
        tokens_per_row=train["tokens_per_micro_batch"],
        num_ranks=num_ranks,
        null_image_tokens=encoder.num_image_tokens if needs_image else None,
    )


def next_commands(job: Job, *names: str) -> list[str]:
    """What to type next: the commands with the words of this one, which are not said twice where they are many."""
    if len(job.words) <= _MANY_WORDS:
        return [f"llava-moe {name} {job.words}".rstrip() for name in names]
    return [f"llava-moe {names[0]} {job.words}", *(f"llava-moe {name} ...   # the same words" for name in names[1:])]
