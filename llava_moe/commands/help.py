"""``llava-moe help``: what a key is, the keys of a section or of a command, or how to ask."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from llava_moe.commands.help_page import defaults_of, page, where_of
from llava_moe.commands.table import COMMANDS as ALL_COMMANDS
from llava_moe.config.key_descriptions import COMMANDS, TAKES_TRAINS, Key, keys_of, sections, spoken
from llava_moe.config.nearest_key import ELSEWHERE, suggest
from llava_moe.errors import UserError
from llava_moe.runs.console import open_console
from llava_moe.terminal.console import visible_text

MARKDOWN = "--markdown"
_HOW = """\
llava-moe help KEY            what it means, what it takes, its default, where else it is set
llava-moe help SECTION        the keys of train that begin so, such as: llava-moe help train
llava-moe help COMMAND        the keys of a command, such as: llava-moe help data check
llava-moe help COMMAND KEY    of that command alone, such as: llava-moe help eval limit
llava-moe help --markdown     all keys, as docs/configuration.md has them
"""


def tell(words: Sequence[str]) -> int:
    """Print what the words ask for.

    Raises:
        UserError: there is no such key, section or command.
    """
    console = open_console()
    if not words:
        _tell_how(console)
        return 0
    if words[0] == MARKDOWN:
        _refuse_more(words[1:])
        sys.stdout.write(page())
        return 0
    commands, rest = _commands(words)
    _refuse_more(rest[1:])
    if not rest:
        for command in commands:
            _tell_command(console, command)
        return 0
    name = _bare(rest[0])
    keys = _keys(name, commands)
    inside = [key for key in _known(commands) if key.name.startswith(f"{name}.")]
    named = [command for command in COMMANDS if len(words) == 1 and spoken(command).split()[0] == name]
    if not (keys or inside or named):
        _refuse_unknown(name, commands)
    for group in _alike(keys):
        _tell_key(console, group)
    for command in dict.fromkeys(key.command for key in inside):
        _tell_inside(console, name, [key for key in inside if key.command == command])
    for command in named:
        _tell_command(console, command)
    return 0


def all_words() -> list[str]:
    """What may stand behind ``help``: keys, sections and commands."""
    keys = [key.name for command in COMMANDS for key in keys_of(command)]
    return sorted({*keys, *sections(), *(spoken(command).split()[0] for command in COMMANDS)})


def _commands(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The commands that are asked about, all of them where the words begin with none; and the other words."""
    joined = "_".join(words[:2])
    if len(words) > 1 and joined in COMMANDS:
        return [joined], words[2:]
    if len(words) > 1 and words[0] in COMMANDS:
        return [words[0]], words[1:]
    if words[0] in ALL_COMMANDS and not any(spoken(command).split()[0] == words[0] for command in COMMANDS):
        raise UserError(f"{words[0]} has no keys: llava-moe {words[0]} --help tells what it does")
    return COMMANDS, words


def _bare(word: str) -> str:
    """The key of a word as it may be typed: with a value, a plus, or a dot and a star behind it."""
    return word.partition("=")[0].lstrip("+~").removesuffix(".*").rstrip(".")


def _known(commands: Sequence[str]) -> list[Key]:
    """The keys that these commands take, those of ``train`` once."""
    others = ["train"] if "train" not in commands and any(command in TAKES_TRAINS for command in commands) else []
    return [key for command in (*commands, *others) for key in keys_of(command)]


def _keys(name: str, commands: Sequence[str]) -> list[Key]:
    """The keys of this name; of a part of one (``stage.learning_rates.adapter``) the key that holds it."""
    parts, known = name.split("."), _known(commands)
    if name.startswith("data.sources.") and len(parts) > 3:
        parts[2] = "NAME"
    if found := [key for key in known if key.name == ".".join(parts)]:
        return found
    holders = [key for key in known if key.name == ".".join(parts[:-1])]
    return [key for key in holders if any(_may_hold(f"{value}", parts[-1]) for value, _ in key.values)]


def _may_hold(value: str, part: str) -> bool:
    """Whether a mapping, as it is typed, has a part of that name, or takes any."""
    return value == "{}" or value.startswith(f"{{{part}: ") or (value.startswith("{") and f", {part}: " in value)


def _alike(keys: Sequence[Key]) -> list[list[Key]]:
    """The keys, those together that several commands have alike."""
    groups: dict[object, list[Key]] = {}
    for key in keys:
        groups.setdefault((key.words, key.limit, key.values), []).append(key)
    return [*groups.values()]


def _refuse_more(words: Sequence[str]) -> None:
    if words:
        raise UserError(f"help tells of one key, section or command at a time: leave out {words[0]}")


def _refuse_unknown(name: str, commands: Sequence[str]) -> None:
    is_one = len(commands) == 1
    known = [key.name for key in _known(commands)] if is_one else [*all_words(), *ELSEWHERE.values()]
    of, lists = (f" of {spoken(commands[0])}", f" {spoken(commands[0])} lists them") if is_one else ("", " lists them")
    raise UserError(f"unknown key {name}{of}{suggest(name, known)}: llava-moe help{lists}")


def _tell_how(console: Console) -> None:
    console.print(f"{_HOW}", soft_wrap=True)
    table = _grid()
    for section, words in sections().items():
        table.add_row(section, words)
    console.print("Sections of llava-moe train:")
    console.print(table)
    names = ", ".join(spoken(command) for command in COMMANDS)
    console.print(f"\nCommands with keys: {names}.\nllava-moe COMMAND --help shows each in use.")


def _tell_key(console: Console, alike: Sequence[Key]) -> None:
    key = alike[0]
    console.print(visible_text(key.name, "bold"))
    table = _grid()
    table.add_row("meaning", key.words)
    table.add_row("takes", key.limit.describe() if key.limit else "any value")
    for number, one in enumerate(defaults_of(key)):
        table.add_row("" if number else "default", one)
    if where := where_of(key):
        table.add_row("in", where)
    table.add_row("command", ", ".join(dict.fromkeys(_takers(alike))))
    console.print(table)
    console.print()


def _takers(alike: Sequence[Key]) -> Iterable[str]:
    for key in alike:
        yield from map(spoken, TAKES_TRAINS) if key.command == "train" else [spoken(key.command)]


def _tell_inside(console: Console, name: str, keys: Sequence[Key]) -> None:
    """The keys below a name: a section of train's configuration, or a part of one."""
    command = keys[0].command
    of = sections().get(name, "") if command == "train" else f"of llava-moe {spoken(command)}"
    console.print(visible_text(f"{name}.*", "bold") + visible_text(f"  {of}".rstrip()))
    _tell_table(console, keys)


def _tell_command(console: Console, command: str) -> None:
    console.print(visible_text(f"llava-moe {spoken(command)}", "bold"))
    _tell_table(console, [key for key in keys_of(command) if command != "train" or "." not in key.name])
    if command in TAKES_TRAINS:
        owner = "and those" if command == "train" else "and all keys of llava-moe train, those"
        console.print(f"{owner} of the sections {', '.join(sections())}\n")


def _tell_table(console: Console, keys: Sequence[Key]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("key", "default", "meaning"):
        table.add_column(heading, overflow="fold", ratio=1 if heading == "meaning" else None)
    for key in keys:
        where = where_of(key)
        table.add_row(
            key.name, defaults_of(key)[0].partition(" with ")[0], f"{key.words} ({where})" if where else key.words
        )
    console.print(table)
    console.print()


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table
