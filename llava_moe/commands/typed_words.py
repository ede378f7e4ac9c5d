"""Words of the command line turned back into what the user typed."""

from __future__ import annotations

import re
import shlex
import sys

from llava_moe.cli import FREE_TEXT
from llava_moe.secrets_in_text import without_secrets


def typed_command() -> str:
    """The running command as it was typed, secrets aside, quoted for a shell: ``llava-moe train 'path=my data.json'``.

    ``cli.run`` keeps ``sys.argv`` so, whatever started the process: the script, ``python -m`` or a launcher.
    """
    return shlex.join(["llava-moe", *map(without_secrets, sys.argv[1:])])


def as_typed(word: str) -> str:
    """A word as the user typed it: without the quotes and the ``++`` that it was given for Hydra."""
    word = word.removeprefix("++")
    key, equals, value = word.partition("=")
    if key not in FREE_TEXT or len(value) < 2 or not value.startswith("'"):
        return word
    text = re.sub(r"(\\+)$", lambda found: found[1][: len(found[1]) // 2], value[1:-1])
    text = re.sub(r"((?:\\\\)*)\\'", lambda found: found[1][: len(found[1]) // 2] + "'", text)
    text = re.sub(r"((?:\\\\)*)\\\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", text)
    return f"{key}{equals}{text}"
