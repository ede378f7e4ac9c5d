"""``llava-moe data prepare``: downloads become sharded Parquet with a manifest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from llava_moe.commands.prepare_progress import PrepareProgress
from llava_moe.config.config_folder import config_folder
from llava_moe.data.readers.shards import MANIFEST, PREPARING, Manifest, read_manifest
from llava_moe.datatools.prepare.preparation import Choices, Preparation, settle_preparation
from llava_moe.datatools.prepare.recipe import Recipe
from llava_moe.datatools.prepare.run import prepare
from llava_moe.datatools.prepare.table import account_lines, account_table
from llava_moe.datatools.prepare.tokens import TextTokenizer
from llava_moe.errors import UserError
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.console import say_next
from llava_moe.runs.stop_signals import StopSignals
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.shell_words import as_place, named, shell
from llava_moe.text.structured_text import parse_yaml

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The language model of the papers' experiments.
USUAL_TOKENIZER = "lmsys/vicuna-7b-v1.5"


def prepare_recipes(plain: Mapping[str, Any], recipes: Sequence[Recipe]) -> int:
    """Prepare each recipe into its folder."""
    console = VisibleConsole(soft_wrap=True)
    with StopSignals(lambda: "finished shards are kept: run the same command again to go on"):
        # All are found before the first is begun: hours of work must not end at the last one's wrong folder.
        jobs = [
            _settle(recipe, _choices(plain), Path(plain["out"], recipe.name), plain["restart"]) for recipe in recipes
        ]
        tokenizer = _tokenizer(plain["model"], console)
        for job in jobs:
            _run(job, tokenizer, plain, console)
    return 0


@dataclass(frozen=True)
class _Job:
    """A recipe to prepare into a folder; without a preparation where its raw files are gone and it is finished."""

    recipe: Recipe
    folder: Path
    preparation: Preparation | None
    why_not: str = ""


def _settle(recipe: Recipe, choices: Choices, folder: Path, restart: bool) -> _Job:
    try:
        return _Job(recipe, folder, settle_preparation(recipe, choices))
    except UserError as error:
        is_finished = (folder / MANIFEST).is_file() and not (folder / PREPARING).is_dir()
        if restart or not is_finished:
            raise
        # Downloads are often removed once they are prepared.
        return _Job(recipe, folder, None, str(error))


def _run(job: _Job, tokenizer: TextTokenizer | None, plain: Mapping[str, Any], console: Console) -> None:
    was_there = (job.folder / MANIFEST).is_file() and not plain["restart"]
    if job.preparation is None:
        manifest = read_manifest(job.folder)
    else:
        num_processes = plain["num_processes"] or _num_cores()
        preparation = replace(job.preparation, choices=replace(job.preparation.choices, tokenizer=tokenizer))
        with PrepareProgress(console) as bar:
            manifest = prepare(preparation, job.folder, num_processes, plain["restart"], bar)
    _show(manifest, job, console)
    if job.preparation is None:
        console.print(f"its raw files were not looked at: {job.why_not}", highlight=False, markup=False)
    if was_there:
        console.print(f"{job.folder} was finished before: nothing was read", highlight=False, markup=False)
    say_next(console, _next_commands(job, manifest))


def _num_cores() -> int:
    """Cores that this process may use; where the system does not say, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _choices(plain: Mapping[str, Any]) -> Choices:
    """All but the tokenizer, which is read once the raw files are found."""
    return Choices(
        downloads=plain["downloads"] if plain["from"] == "downloads" else None,
        images=plain["images"],
        splits=None if plain["splits"] is None else tuple(plain["splits"]),
        tokenizer_was_asked_for=_names_tokenizer(plain["model"]),
        probe_images=plain["probe_images"],
        memory=cache_folder(),
    )


def _names_tokenizer(model: Mapping[str, Any]) -> bool:
    return model["path"] is not None or model["architecture"] is not None


def _tokenizer(model: Mapping[str, Any], console: Console) -> TextTokenizer | None:
    """The tokenizer of the model that was asked for; unasked, the papers' where it is at hand: no network is tried."""
    if _names_tokenizer(model):
        return _tokenizer_of(model)
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(USUAL_TOKENIZER, "tokenizer_config.json"), str):
        return _read_tokenizer(USUAL_TOKENIZER)
    console.print(
        f"tokens are not counted: the tokenizer of {USUAL_TOKENIZER} is not on this machine; model=NAME counts "
        "with another's (model=demo: the embedded one)",
        highlight=False,
        markup=False,
    )
    return None


def _tokenizer_of(model: Mapping[str, Any]) -> TextTokenizer:
    from llava_moe.assemble import ARCHITECTURES, from_target
    from llava_moe.model import FromCheckpoint, FromParts, FromShape, read_base
    from llava_moe.model.architecture import name_of

    if model["path"] is not None:
        return _read_tokenizer(str(model["path"]))
    architecture = from_target(model["architecture"], ARCHITECTURES)
    if isinstance(architecture, FromParts):
        return _read_tokenizer(architecture.language_model)
    if isinstance(architecture, FromCheckpoint):
        return _read_tokenizer(architecture.path)
    if isinstance(architecture, FromShape):
        return _read_tokenizer(architecture.tokenizer)
    return _as_text(name_of(architecture), read_base(architecture).tokenizer)


def _read_tokenizer(reference: str) -> TextTokenizer:
    from llava_moe.model.tokenizer import load_tokenizer

    return _as_text(reference, load_tokenizer(reference))


def _as_text(reference: str, tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return TextTokenizer(reference, backend.to_str())


def _show(manifest: Manifest, job: _Job, console: Console) -> None:
    console.print(account_table(manifest))
    for line in account_lines(manifest, job.folder):
        console.print(line, highlight=False, markup=False)


def _next_commands(job: _Job, manifest: Manifest) -> list[str]:
    splits = list(manifest.counts)
    first = "train" if "train" in splits else next(iter(splits), "train")
    split = [] if splits in ([], ["train"]) else [f"data.sources.mine.split={first}"]
    data = ["llava-moe", "data", "check"]
    commands = [f"{shell(*data)} {named('path', job.folder)} {shell(*split)}".rstrip()]
    root = [] if job.folder.parent == Path("data") else [f"data.root={as_place(job.folder.parent)}"]
    commands += [shell(*data, f"data={name}", *root) for name in _mixtures_with(job.recipe.name)[:1]]
    return commands


def _mixtures_with(recipe: str) -> list[str]:
    """Names of the shipped mixtures that take in what the recipe prepares."""
    found = []
    for path in sorted((config_folder() / "data").glob("*.yaml")):
        sources = parse_yaml(path.read_bytes()).get("sources") or {}
        if any(isinstance(source, Mapping) and source.get("recipe") == recipe for source in sources.values()):
            found.append(path.stem)
    return found
