"""What every key is. Its words and its value stand in the file of configs/ that writes it, its limits in what enforces
them: here they are brought together, and nothing is said that does not stand there.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from llava_moe.config.as_word import as_word
from llava_moe.config.choices import names_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.key_limits import EVAL, SOURCE, TARGETS, TRAIN
from llava_moe.config.known_keys import PATTERNS
from llava_moe.config.limits import Limit
from llava_moe.text.structured_text import parse_yaml, yaml_comments

COMMANDS = (
    *("train", "plan", "compose", "data_check", "data_stats", "data_preview", "data_prepare", "init", "eval", "chat"),
    *(
        "export",
        "analyze_interference",
        "analyze_transfer",
        "analyze_routing",
        "analyze_forgetting",
        "compare",
        "reproduce",
    ),
)
"""Those that have keys, by the name of their configuration."""
TAKES_TRAINS = ("train", "plan", "compare", "compose", "data_check", "data_stats", "data_preview")
"""Those that take the words of ``train`` beside their own."""
TYPED = {("reproduce", "size"): "scale"}
"""Settings that are typed by another name (see ``words.reproduce``)."""
SOURCE_KEY = "data.sources.NAME."
_NO_KEYS = ("defaults", "hydra")
_OF_THE_WHOLE = ("exp", "stage", "scale")
"""Groups whose files write into the whole configuration."""
_OWN_WORDS = ("adapter", "model")
"""Groups whose files may mean different things by one key."""


@dataclass(frozen=True)
class NameIn:
    """A name of a group's files."""

    group: str

    def admits(self, value: Any) -> bool:
        return value in names_of(self.group)

    def describe(self) -> str:
        names = names_of(self.group)
        told = f": {', '.join(names)}" if len(names) <= 8 else ""
        return f"a name of llava-moe ls {self.group}{told}" + (", or a FILE.yaml" if self.group == "data" else "")


@dataclass(frozen=True)
class Key:
    """One key of a command.

    Attributes:
        command: the name of its configuration, such as ``data_check``.
        name: as it is typed; ``setting``: as the configuration calls it.
        bound: what it may be, where that is not among the command's limits.
        values: what it is where nobody types it, and the choices that make it so (``adapter=lora``): none for the value
            that it has unless a choice says otherwise. ``None`` where it must be given.
    """

    command: str
    name: str
    setting: str
    words: str
    bound: Limit | None
    values: tuple[tuple[str | None, tuple[str, ...]], ...]

    @property
    def limit(self) -> Limit | None:
        """What it may be; asked for late, since a command's limits stand where its words are judged."""
        return self.bound or limits_of(self.command).get(self.setting)


@dataclass(frozen=True)
class _Line:
    """A key where a file writes it: ``choice`` chooses that file, and is empty for a command's own."""

    name: str
    words: str
    value: str | None
    choice: str = ""
    limit: Limit | None = None


@cache
def keys_of(command: str) -> tuple[Key, ...]:
    """The keys of a command, those that it takes from ``train`` left out."""
    if command == "train":
        return tuple(_keys_of_train())
    groups = [Key(command, one.name, one.name, one.words, NameIn(one.name), _values([one])) for one in _groups(command)]
    lines = _lines(config_folder() / f"{command}.yaml")
    own = [Key(command, TYPED.get((command, o.name), o.name), o.name, o.words, None, _values([o])) for o in lines]
    return (*groups, *own)


def limits_of(command: str) -> Mapping[str, Limit]:
    """What holds a command's own settings to their limits."""
    if command in ("train", "eval"):
        return {"train": TRAIN, "eval": EVAL}[command]
    limits: Mapping[str, Limit] = importlib.import_module(f"llava_moe.commands.words.{command}").LIMITS
    return limits


def spoken(command: str) -> str:
    """A command as it is typed: ``data check``."""
    return command.replace("_", " ")


@cache
def sections() -> dict[str, str]:
    """The sections of ``train``'s configuration, and what each holds."""
    own = yaml_comments((config_folder() / "train.yaml").read_text(encoding="utf-8"))
    names = dict.fromkeys(key.name.partition(".")[0] for key in keys_of("train") if "." in key.name)
    return {name: own.get(f"defaults.{name}") or own.get(name, "") for name in names}


def _keys_of_train() -> Iterator[Key]:
    for group in _groups("train"):
        yield Key("train", group.name, group.name, group.words, NameIn(group.name), _values([group]))
    found = {line.name: [line] for line in _lines(config_folder() / "train.yaml")}
    for line in _lines_of_groups():
        section = line.name.partition(".")[0]
        if line.name in found or line.choice.startswith(f"{section}="):
            found.setdefault(line.name, []).append(line)
    for name, lines in found.items():
        first = next((line.words for line in lines if line.words), "")
        has_own = not any(line.choice == "" for line in lines) and name.startswith(_OWN_WORDS)
        meanings: dict[tuple[str, Limit | None], list[_Line]] = {}
        home = {line.choice: line for line in lines}
        for line in lines:
            # An experiment's sizes of an adapter mean what the adapter's own file says.
            meant = home.get(line.choice.rpartition(" ")[2], line)
            words = meant.words if has_own and meant.words else first
            meanings.setdefault((words, meant.limit or TRAIN.get(name)), []).append(line)
        for (words, limit), same in meanings.items():
            yield Key("train", name, name, words, limit, _values(same))
    for line in _lines(config_folder() / "source.yaml"):
        name = SOURCE_KEY + line.name
        yield Key("train", name, name, line.words, SOURCE.get(line.name), _values([line]))


def _values(lines: Sequence[_Line]) -> tuple[tuple[str | None, tuple[str, ...]], ...]:
    """The values of one key, and the choices that give it each."""
    usual = next((line for line in lines if not line.choice), None)
    if usual is None and lines[0].name.partition(".")[0] in PATTERNS:
        group = lines[0].choice.partition("=")[0]
        own = [line for line in lines if line.choice.startswith(f"{group}=")]
        if len(own) == len(_our_names(group)) and len({line.value for line in own}) == 1:
            usual = own[0]
    values: dict[str | None, tuple[str, ...]] = {} if usual is None else {usual.value: ()}
    for line in lines:
        if usual is None or line.value != usual.value:
            values[line.value] = (*values.get(line.value, ()), line.choice)
    return tuple(values.items())


def _groups(command: str) -> list[_Line]:
    """The groups that a command's configuration chooses files of."""
    path = config_folder() / f"{command}.yaml"
    text = path.read_text(encoding="utf-8")
    said = yaml_comments(text)
    found = []
    for entry in parse_yaml(text).get("defaults", []):
        for group, name in entry.items() if isinstance(entry, dict) else ():
            if " " not in group:
                found.append(_Line(group, said[f"defaults.{group}"], as_word(name)))
    return found


def _lines_of_groups() -> Iterator[_Line]:
    """What the files of all groups write, a group's pattern first."""
    folder = config_folder()
    for group in ("model", "data", "adapter", "parallel", *_OF_THE_WHOLE, "sizes"):
        pattern = folder / f"{PATTERNS.get(group, 'adapter/lora')}.yaml"
        for path in sorted((folder / group).glob("*.yaml"), key=lambda path: (path != pattern, path.name)):
            choice, prefix = f"{group}={path.stem}", "" if group in _OF_THE_WHOLE else f"{group}."
            if group == "sizes":
                adapter = next(name for name in _our_names("adapter") if path.stem.endswith(f"_{name}"))
                choice, prefix = f"exp={path.stem.removesuffix(f'_{adapter}')} adapter={adapter}", "adapter."
            for line in _lines(path):
                if not line.name.startswith("sources") and "_target_" not in line.name:
                    yield replace(line, name=prefix + line.name, choice=choice)


def _our_names(group: str) -> list[str]:
    """Of the files that are described here: those of other packages are not."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


def _lines(path: Path) -> list[_Line]:
    """The keys of a file that hold a value, as it writes them; what is in brackets is one value."""
    text = path.read_text(encoding="utf-8")
    content, said = parse_yaml(text) or {}, yaml_comments(text)
    found: list[_Line] = []
    waiting: list[tuple[str, Any, Mapping[str, Limit]]] = [("", content, _fields_of(content))]
    while waiting:
        prefix, node, limits = waiting.pop(0)
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name in _NO_KEYS:
                continue
            if isinstance(value, dict) and any(one.startswith(f"{name}.") for one in said):
                waiting.append((f"{name}.", value, _fields_of(value)))
            else:
                found.append(_Line(name, said[name], _as_typed(value), limit=limits.get(key)))
    return found


def _fields_of(node: Mapping[str, Any]) -> Mapping[str, Limit]:
    return TARGETS.get(str(node.get("_target_")), {})


def _as_typed(value: Any) -> str | None:
    """A value as the command line takes it; None for one that must be given."""
    if value == "???":
        return None
    if isinstance(value, list):
        return f"[{','.join(str(_as_typed(one)) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_as_typed(one)}' for key, one in value.items())}}}"
    return "''" if value == "" else as_word(value)
