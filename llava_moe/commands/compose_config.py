"""From words on the command line to a resolved configuration: the only meeting with Hydra.

Unknown keys and groups become one line with the nearest known name.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from hydra import compose, main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llava_moe.cli import config_folder
from llava_moe.errors import UserError


def run_composed(name: str, words: Sequence[str], job: Callable[[DictConfig, list[str]], int]) -> int:
    """Compose the primary configuration ``name`` with overrides and Hydra's own flags, and run ``job`` on it.

    ``job`` gets the configuration and the override words, from which other configurations can be composed.

    Raises:
        UserError: a word that Hydra does not understand, or a key or group that does not exist.
    """
    statuses: list[int] = []
    failures: list[BaseException] = []

    def task(config: DictConfig) -> None:
        # Hydra writes a line of its own for an exception that reaches it.
        try:
            statuses.append(job(config, list(HydraConfig.get().overrides.task)))
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)

    task.__module__ = "__main__"
    # Hydra then lets exceptions through instead of printing its own page and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments, sys.argv = sys.argv, ["llava-moe", *words]
    try:
        main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, name, words)) from error
    finally:
        sys.argv = arguments
    if failures:
        raise failures[0]
    return max(statuses, default=0)


def compose_again(name: str, words: Sequence[str]) -> DictConfig:
    """Compose another configuration from inside a running job."""
    assert GlobalHydra.instance().is_initialized()
    try:
        return compose(config_name=name, overrides=list(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, name, words)) from error


def resolved(config: DictConfig, name: str = "train") -> dict[str, Any]:
    """Plain containers with every interpolation resolved.

    Raises:
        UserError: a value that must be given is missing, or an interpolation that leads nowhere.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise UserError(f"{missing[0]} must be given: add {missing[0]}=VALUE")
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {str(error).splitlines()[0]}") from error
    assert isinstance(plain, dict)
    refuse_unknown({str(key): value for key, value in plain.items()}, name)
    return {str(key): value for key, value in plain.items()}


def refuse_unknown(config: dict[str, Any], name: str) -> None:
    """Refuse keys that the primary configuration does not have: an experiment's file may hold a typing mistake.

    Raises:
        UserError: the first unknown key, with the nearest known one.
    """
    known = yaml.safe_load((config_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    for section, node in known.items():
        if isinstance(node, dict) and section not in ("hydra", "defaults"):
            for key in config[section]:
                if key not in node:
                    raise UserError(f"unknown key {section}.{key}{_suggest(key, list(node))}")
    for key in config:
        if key not in known and key not in groups:
            raise UserError(f"unknown key {key}{_suggest(key, [*known, *groups])}")


def as_yaml(config: dict[str, Any]) -> str:
    """The YAML text of a resolved configuration."""
    return OmegaConf.to_yaml(OmegaConf.create(config))


def explain(error: Exception, name: str, words: Sequence[str]) -> str:
    """One line for the user: what is wrong, where, and the nearest name that exists."""
    messages = " ".join(str(part) for part in (error, error.__cause__) if part is not None)
    group = re.search(r"Could not find '([^']+)'", messages)
    if group:
        kind, _, choice = group[1].rpartition("/")
        return f"{kind}={choice} does not exist{_suggest(choice, choices(kind))}: llava-moe ls {kind} lists them"
    key = re.search(r"Could not override '([^']+)'", messages) or re.search(r"Key '([^']+)' is not in struct", messages)
    if key:
        full = re.search(r"full_key: (\S+)", messages)
        unknown = key[1] if "Could not override" in messages else (full[1] if full else key[1])
        return f"unknown key {unknown}{_suggest(unknown, _known_keys(name, words))}"
    no_group = re.search(r"No match in the defaults list|Could not override '([^']+)'\.", messages)
    first = " ".join(messages.split())[:300]
    return f"cannot read the command line: {first}" if not no_group else f"unknown key: {first}"


def choices(group: str) -> list[str]:
    """Names that may stand after ``group=``."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _suggest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if not near:
        tail = {key.rpartition(".")[2]: key for key in known}
        matches = difflib.get_close_matches(word.rpartition(".")[2], list(tail), n=1, cutoff=0.6)
        near = [tail[match] for match in matches]
    return f" (did you mean {near[0]}?)" if near else ""


def _known_keys(name: str, words: Sequence[str]) -> list[str]:
    """Keys of the configuration with only the group choices of the command line applied."""
    from hydra import initialize_config_dir

    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    kept = [word for word in words if word.partition("=")[0] in groups]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        config = compose(config_name=name, overrides=kept)
    return _dotted(OmegaConf.to_container(config, resolve=False)) + sorted(groups)


def _dotted(node: Any, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in node.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _dotted(value, f"{prefix}{key}.")
    return keys


