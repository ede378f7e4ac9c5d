"""From words on the command line to a resolved configuration: the only meeting with Hydra.

Unknown keys and groups become one line with the nearest known name.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose, initialize_config_dir, main
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from llava_moe.config.as_word import as_word
from llava_moe.config.config_folder import config_folder, shipped_folders
from llava_moe.config.free_text import MIXTURE_ENDINGS, OPEN_ENDED
from llava_moe.config.hydra_settings import held_to_ours, refuse_words
from llava_moe.config.hydra_words import prepare_override, quote
from llava_moe.config.known_keys import dotted
from llava_moe.config.nearest_key import suggest
from llava_moe.config.odd_words import refuse_odd_words, refuse_sizes
from llava_moe.config.own_data import words_that_keep_own
from llava_moe.config.own_mixtures import own_mixtures
from llava_moe.config.own_yamls import broken_choice, refuse_unbounded
from llava_moe.config.path_mappings import words_with_own_data
from llava_moe.config.rates import spell_out
from llava_moe.config.sweep_size import refuse_large_sweep
from llava_moe.config.validator import refuse_unknown
from llava_moe.errors import UserError
from llava_moe.text.secrets import has_secret, refusal

TAKEN_FLAGS = (
    *("-m", "--multirun", "-c", "--cfg", "--resolve", "-cd", "--config-dir", "-cp", "--config-path"),
    *("-h", "--help", "-i", "--info"),
)
"""Hydra's flags that are ours too; of the others one opens a pickle, which may run any program."""
MULTIRUN = ("-m", "--multirun")
WITHOUT_VALUE = (*MULTIRUN, "--resolve", "-h", "--help")
# What a mistake in the words or in a configuration file raises; ValueError: flags that exclude each other;
# RuntimeError: a launcher or sweeper that is no plugin of Hydra's, brackets nested too deep; OSError: a name that no
# file can have, a file that is closed to us.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RuntimeError, OSError)


def run_composed(name: str, words: Sequence[str], job: Callable[[DictConfig, list[str]], int]) -> int:
    """Compose the primary configuration ``name`` with overrides and Hydra's own flags, and run ``job`` on it.

    ``job`` gets the configuration and the override words, from which other configurations can be composed.

    Raises:
        UserError: a word that Hydra does not understand, or a key or group that does not exist.
    """
    with own_mixtures():
        return _run_composed(name, words, job)


def _run_composed(name: str, words: Sequence[str], job: Callable[[DictConfig, list[str]], int]) -> int:
    statuses: list[int] = []
    failures: list[BaseException] = []

    def task(config: DictConfig) -> None:
        words_for_hydra, sys.argv = sys.argv, arguments
        # Hydra writes a line of its own for an exception that reaches it.
        try:
            own = _words_that_keep_own(name, task_words())
            statuses.append(job(compose_again(name, own) if own != task_words() else config, own))
        except (Exception, KeyboardInterrupt) as error:
            failures.append(error)
        finally:
            sys.argv = words_for_hydra

    task.__module__ = "__main__"
    # Hydra then lets exceptions through instead of printing its own page and exiting with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    flags, overrides = split_flags(words)
    if name == "train":
        overrides = words_with_own_data(overrides)
    refuse_words(overrides)
    refuse_odd_words(name, overrides, _own_folders(flags))
    refuse_unbounded([*flags, *overrides])
    words = [*flags, *spell_out(overrides)]
    if any(flag in flags for flag in MULTIRUN):  # each job has words of its own
        refuse_large_sweep(overrides)
    else:
        words = _words_that_keep_own(name, words)
    arguments, sys.argv = sys.argv, ["llava-moe", *words]
    try:
        with held_to_ours(words):
            main(version_base="1.3", config_path=str(config_folder()), config_name=name)(task)()
    except COMPOSITION_ERRORS as error:
        raise UserError(explain(error, name, words)) from error
    finally:
        sys.argv = arguments
    if failures:
        raise failures[0]
    return max(statuses, default=0)


def task_words() -> list[str]:
    """The override words of the running job, as they were given."""
    # Trap: read as a configuration they would be interpolated, and ``\\${`` would lose its backslash.
    words = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, and the overrides: its parser gives up where overrides stand on both sides of a flag.

    Raises:
        UserError: a flag that is not one of ``TAKEN_FLAGS``, or a flag without its value.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"cannot read the command line: {message}")

    parser.error = refuse  # type: ignore[method-assign]
    kinds = {option: action for action in parser._actions for option in action.option_strings}
    flags: list[str] = []
    overrides: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        if word.partition("=")[0] not in TAKEN_FLAGS or (word not in TAKEN_FLAGS and not word.startswith("--")):
            refuse(
                f"unrecognized arguments: {word}; the flags are {', '.join(TAKEN_FLAGS)}, and a setting is key=value "
                "without dashes"
            )
        flags.append(word)
        action = kinds.get(word)
        takes_value = action is not None and action.nargs is None
        may_take_value = action is not None and action.nargs == "?" and waiting and waiting[0] in (action.choices or ())
        if waiting and (takes_value or may_take_value):
            flags.append(waiting.pop(0))
        elif action is not None and action.nargs == "?" and "=" not in word:
            # Said in full, or the parser would take an override behind it for its value.
            flags.append(str(action.const))
    try:
        parser.parse_args([*flags, *overrides])
    except argparse.ArgumentError as error:
        refuse(str(error))
    return flags, overrides


def compose_again(name: str, words: Sequence[str]) -> DictConfig:
    """Compose another configuration from inside a running job."""
    assert GlobalHydra.instance().is_initialized()
    refuse_sizes(words)
    try:
        return compose(config_name=name, overrides=_words_that_keep_own(name, spell_out(words)))
    except COMPOSITION_ERRORS as error:
        raise UserError(explain(error, name, words)) from error


def _words_that_keep_own(name: str, words: list[str]) -> list[str]:
    """The words, and those by which data of one's own is kept; where they do not compose, Hydra is to say why."""
    if name != "train":
        return words
    folders, overrides = _own_folders(words), _overrides(words)

    def composed(tried: list[str]) -> DictConfig:
        if GlobalHydra.instance().is_initialized():
            return compose(config_name=name, overrides=tried, return_hydra_config=True)
        places = ",".join(quote(f"file://{folder.absolute()}") for folder in folders)
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            return compose(name, [*tried, f"hydra.searchpath=[{places}]"], return_hydra_config=True)

    try:
        return [*words, *words_that_keep_own(overrides, composed)]
    except COMPOSITION_ERRORS:
        return words


def _overrides(words: Sequence[str]) -> list[str]:
    """The words that are neither flags nor values of flags, which stand in front (``split_flags``)."""
    waiting = list(words)
    while waiting and waiting[0].startswith("-"):
        flag = waiting.pop(0)
        if flag not in WITHOUT_VALUE and "=" not in flag:
            waiting = waiting[1:]
    return waiting


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
        where = f" in {error.full_key}" if getattr(error, "full_key", None) else ""
        raise UserError(f"configuration: {str(error).splitlines()[0]}{where}: fix the value there") from error
    assert isinstance(plain, dict)
    named = {str(key): value for key, value in plain.items()}
    refuse_unknown(named, name)
    _refuse_secrets(named)
    return named


def _refuse_secrets(value: Any, place: str = "") -> None:
    """Refuse a password or a token in a setting, wherever it came from: the configuration is kept and shown."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in inner:
            _refuse_secrets(one, f"{place}.{key}" if place else str(key))
    elif isinstance(value, str) and place != "prompt" and has_secret(value):
        raise UserError(refusal(place, value))


def as_yaml(config: Mapping[str, Any]) -> str:
    """The YAML text of a resolved configuration."""
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=10_000)
    # Trap: PyYAML writes Unicode's own line breaks as they are and reads them back as blanks; escaped they stay.
    if any(line_break in text for line_break in "\x85\u2028\u2029"):
        text = yaml.safe_dump(dict(config), sort_keys=False, width=10_000)
    return text


def explain(error: Exception, name: str, words: Sequence[str]) -> str:
    """One line for the user: what is wrong, where, and the nearest name that exists."""
    messages = " ".join(str(part) for part in (error, error.__cause__) if part is not None)
    group = re.search(r"Could not find '([^']+)'", messages)
    if group:
        kind, _, choice = group[1].rpartition("/")
        near = suggest(choice, choices(kind, words))
        own = f"FOLDER/{kind}/{choice}.yaml of your own is read with --config-dir FOLDER"
        if kind == "data":
            beside = next((f"{choice}{end}" for end in MIXTURE_ENDINGS if Path(f"{choice}{end}").is_file()), "")
            near, own = f" (did you mean data={beside}?)" if beside else near, f"{own}, any file by data=FILE.yaml"
        return f"{kind}={choice} does not exist{near}: llava-moe ls {kind} lists them; {own}"
    key = re.search(r"Could not override '([^']+)'", messages) or re.search(r"Key '([^']+)' is not in struct", messages)
    if key:
        full = re.search(r"full_key: (\S+)", messages)
        unknown = key[1] if "Could not override" in messages else (full[1] if full else key[1])
        known = _known_keys(name, words)
        if inside := [one for one in known if one.startswith(f"{unknown}.")]:
            return f"unknown key {unknown} of {name}: what it has there are settings, such as {inside[0]}"
        if unknown in known:
            return f"{unknown} is not in the file that was chosen for {unknown.partition('.')[0]}: write it there"
        return f"unknown key {unknown}{suggest(unknown, known)}"
    first = re.sub(r" See https://\S+.*", "", " ".join(messages.split()))[:300]
    if swept := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?: requires|\s*1\.)", messages):
        return f"{swept[1]} gives several values: add -m to run each, or write one value (a list as [a,b])"
    if isinstance(error, OSError) and error.filename:
        for typed, _, value in (word.partition("=") for word in words):
            if value and value[:100] in str(error.filename):
                return f"{typed}={as_word(value)} does not exist: no file can have that name ({error.strerror})"
        return f"{str(error.filename)[:300]} cannot be opened ({error.strerror}): check the words and --config-dir"
    if isinstance(error, OverrideParseException):
        # A mistyped key of free text was not quoted for Hydra, which then stumbles over its value.
        bare = str(error.override).partition("=")[0].lstrip("+~")
        known = _known_keys(name, words)
        if bare not in known and not bare.startswith(OPEN_ENDED) and (near := suggest(bare, known)):
            return f"unknown key {bare}{near}"
        return f"cannot read {error.override}: write key=value, and text with blanks or commas as key=\"'...'\""
    if isinstance(error, yaml.YAMLError):
        return f"a configuration file is not valid YAML: {first}"
    # An experiment's own sizes of an adapter are looked up by both names (configs/sizes).
    if lost := re.match(r"Error resolving interpolation '\$\{exp\}_\$\{adapter\}'", first) and [
        word.lstrip("~") for word in words if word in ("~adapter", "~exp")
    ]:
        return f"{lost[0]} is not set: a ~ left it out; leave that word out, or say {lost[0]}=NAME"
    if broken := broken_choice(words):
        return f"{broken}: fix that file"
    return f"cannot read the command line: {first}"


def choices(group: str, words: Sequence[str] = ()) -> list[str]:
    """Names that may stand after ``group=``, those of the user's own ``--config-dir`` among them."""
    folders = [*shipped_folders(), *_own_folders(words)]
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _own_folders(words: Sequence[str]) -> list[Path]:
    joined = [word.removeprefix("--config-dir=") for word in words if word.startswith("--config-dir=")]
    apart = [value for flag, value in pairwise(words) if flag in ("--config-dir", "-cd")]
    return [Path(value) for value in (*joined, *apart)]


def composed_for_keys(name: str, words: Sequence[str]) -> DictConfig:
    """A configuration as its keys are to be offered: of words that do not compose, nothing is taken."""
    folders = _own_folders(words)
    places = ",".join(quote(f"file://{folder.absolute()}") for folder in folders)
    overrides = [prepare_override(word) for word in _overrides(split_flags(words)[1])]
    with own_mixtures(), initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        try:
            return compose(name, [*overrides, f"hydra.searchpath=[{places}]"])
        except (*COMPOSITION_ERRORS, UserError):
            return compose(name)


def _known_keys(name: str, words: Sequence[str]) -> list[str]:
    """Keys of the configuration with only the group choices of the command line applied."""
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    shipped = [word for word in words if (pair := word.partition("="))[0] in groups and pair[2] in choices(pair[0])]
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        try:
            config = compose(config_name=name, overrides=shipped)
        except HydraException:  # A group that this command does not choose from.
            groups, config = set(), compose(config_name=name)
    return dotted(OmegaConf.to_container(config, resolve=False)) + sorted(groups)
