"""The words of ``llava-moe data prepare``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.hydra_words import quote
from llava_moe.config.key_limits import FLAG, TRAIN
from llava_moe.config.limits import Either, Fields, FilePath, Limit, ListOf, OneOf, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.runs.out_folder import refuse_unwritable

LIMITS: dict[str, Limit] = {
    "recipe": OrNull(Either((Text(), ListOf(Text())))),
    "downloads": OrNull(FilePath()),
    "from": OneOf(("downloads", "hub")),
    "out": FilePath(),
    "splits": OrNull(ListOf(Text())),
    "images": OrNull(FilePath()),
    "probe_images": FLAG,
    "num_processes": OrNull(Whole(1)),
    "restart": FLAG,
    "model.architecture": OrNull(Fields()),
    **{key: TRAIN[key] for key in ("model.path", "model.system")},
    "model.attn_implementation": OrNull(TRAIN["model.attn_implementation"]),
}
FREE_TEXT = ("recipe", "downloads")


def main(words: Sequence[str]) -> int:
    """Judge the words, then prepare."""
    return run_composed("data_prepare", [_quoted(word) for word in words], lambda config, _: _begin(config))


def _quoted(word: str) -> str:
    """Paths round Hydra's grammar; a list of recipes stays one."""
    key, _, value = word.partition("=")
    if key not in FREE_TEXT or not value or value == "null" or value.startswith(("[", "'", '"')):
        return word
    return f"{key}={quote(value)}"


def _begin(config: DictConfig) -> int:
    plain = resolved(config, "data_prepare")
    check_settings(plain, LIMITS)
    refuse_unwritable(Path(plain["out"]))
    from llava_moe.datatools.prepare.recipe import load_recipe

    recipes = [load_recipe(name) for name in _recipe_names(plain)]
    if plain["from"] == "hub" and plain["downloads"] is not None:
        raise UserError("from=hub reads no downloads: leave out downloads= or from=hub")
    if plain["from"] == "downloads" and plain["downloads"] is None:
        lines = " && ".join(recipes[0].get)
        raise UserError(f"data prepare needs downloads=FOLDER; fetch {recipes[0].name} into it: {lines}")
    from llava_moe.commands.data_prepare import prepare_recipes

    return prepare_recipes(plain, recipes)


def _recipe_names(plain: Mapping[str, Any]) -> list[str]:
    asked = plain["recipe"]
    names = asked if isinstance(asked, list) else [asked]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError("data prepare needs recipe=NAME: llava-moe ls recipe lists them; several: recipe=[A,B]")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"recipe={asked}: {twice[0]} is there twice; name it once".replace("'", ""))
    return [str(name) for name in names]
