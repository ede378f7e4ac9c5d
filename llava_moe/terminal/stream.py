"""What everyone in the process writes to a terminal, made visible: libraries, warnings, threads that fail."""

from __future__ import annotations

import re
from typing import Any, TextIO

from llava_moe.text.escape_control import visible
from llava_moe.text.secrets import without_secrets

_KEPT = "\n\t"
# What a library's progress bar moves the cursor by: to the line's start, a line up, and clearing the line.
_BAR = re.compile(r"((?:\r|\x1b\[[AK])*)(.*?)(\r?)", re.DOTALL)


class VisibleStream:
    """A stream in whose text control characters are written out and secrets hidden.

    Rich's consoles find the stream itself behind it and write their colours there; what they show is made visible
    already.

    Args:
        stream: where the text goes.
        is_terminal: what is said to who asks. Of standard error nobody may know, or libraries send colours.
    """

    def __init__(self, stream: TextIO, is_terminal: bool = False) -> None:
        self.rich_proxied_file = stream
        self._is_terminal = is_terminal

    def write(self, text: str) -> int:
        """Write the text, visible; a carriage return at its ends is a progress bar's and stays."""
        found = _BAR.fullmatch(text)
        assert found is not None
        self.rich_proxied_file.write(f"{found[1]}{visible(without_secrets(found[2]), keep=_KEPT)}{found[3]}")
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write each line as :meth:`write` does."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """What was said when it was made."""
        return self._is_terminal

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
