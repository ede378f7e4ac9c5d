"""All keys as a page of Markdown, ``docs/configuration.md``, and the words in which a key's values are told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from llava_moe.config.key_descriptions import COMMANDS, TAKES_TRAINS, Key, keys_of, sections, spoken
from llava_moe.text.markdown import markdown_code, markdown_text

_MOST_CHOICES = 4
_INTERPOLATION = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,null)?\}")
_HEAD = """\
# Configuration: every key

Written by `llava-moe help --markdown > docs/configuration.md`; a test holds it to what it is written from: comments in
`configs/` and the limits that the commands enforce. The same by key: `llava-moe help train.warmup_ratio`, by section:
`llava-moe help train`, by command: `llava-moe help data check`.

A key is typed as `key=value` behind its command. Lists are typed `[a,b]`, mappings `{name: value}`, both quoted for the
shell where they hold blanks. `null` is no value.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_of_train(), *(line for one in COMMANDS if one != "train" for line in _of_command(one))])


def defaults_of(key: Key) -> list[str]:
    """The values that a key has where nobody types it, each with the choices that give it, the usual one first."""
    if len(key.values) == 1:
        return [_shown(key.values[0][0])]
    return [f"{_shown(value)} with {_some(choices)}" if choices else _shown(value) for value, choices in key.values]


def where_of(key: Key) -> str:
    """The choices that have a key at all: ``adapter=lora, llava_mole``; "" for one that is always there."""
    if not key.values[0][1]:
        return ""
    group = key.values[0][1][0].partition("=")[0]
    names = [choice.partition("=")[2] for _, choices in key.values for choice in choices if choice.startswith(group)]
    return f"{group}={', '.join(name for name in names if ' ' not in name)}"


def _shown(value: str | None) -> str:
    return "must be given" if value is None else _INTERPOLATION.sub(r"what \1 is", value)


def _some(choices: Sequence[str]) -> str:
    shown = ", ".join(choices[:_MOST_CHOICES])
    return shown if len(choices) <= _MOST_CHOICES else f"{shown} and {len(choices) - _MOST_CHOICES} more"


def _of_train() -> Iterator[str]:
    keys = keys_of("train")
    yield f"## llava-moe train\n\nAlso taken by {', '.join(spoken(one) for one in TAKES_TRAINS if one != 'train')}.\n"
    yield from _table(key for key in keys if "." not in key.name)
    for section, words in sections().items():
        yield f"### {section}\n\n{markdown_text(words)}\n"
        yield from _table(key for key in keys if key.name.startswith(f"{section}."))


def _of_command(command: str) -> Iterator[str]:
    yield f"## llava-moe {spoken(command)}\n"
    if command in TAKES_TRAINS:
        yield "Beside the keys of `train`:\n"
    yield from _table(keys_of(command))


def _table(keys: Iterable[Key]) -> Iterator[str]:
    yield "| key | meaning | takes | default |\n|---|---|---|---|"
    for key in keys:
        where = where_of(key)
        meaning = f"{key.words} ({where})" if where else key.words
        takes = key.limit.describe() if key.limit else ""
        value = key.values[0][0]
        default = "must be given" if value is None else markdown_code(_shown(value))
        cells = (markdown_code(key.name), markdown_text(meaning), markdown_text(takes), default)
        yield f"| {' | '.join(cells)} |"
    yield ""
