"""The words of ``llava-moe completion``: a shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from llava_moe.commands.completion import OFFERS, offers_behind, refuse_shell, script_of


def main(words: Sequence[str]) -> int:
    """Print the script of a shell, or, where that asks, what may stand at the cursor."""
    refuse_shell(words)
    if words[0] == OFFERS:
        sys.stdout.write("".join(f"{one}\n" for one in offers_behind(os.environ.get("COMP_LINE", ""))))
    else:
        sys.stdout.write(script_of(words[0]))
    return 0
