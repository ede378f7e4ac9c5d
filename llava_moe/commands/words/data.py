"""The words of ``llava-moe data``: sends the second word to its command."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from llava_moe.commands.table import DATA_COMMANDS
from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean


def main(words: Sequence[str]) -> int:
    """Run ``prepare``, ``check``, ``stats`` or ``preview``."""
    names = ", ".join(DATA_COMMANDS)
    if not words:
        raise UserError(f"data needs a second word: one of {names}")
    name, rest = words[0], words[1:]
    if name not in DATA_COMMANDS:
        meant = did_you_mean(name, DATA_COMMANDS)
        raise UserError(f"data {name} is not a command{meant}: the second word is one of {names}")
    module = importlib.import_module(f"llava_moe.commands.words.data_{name}")
    return int(module.main(list(rest)) or 0)
