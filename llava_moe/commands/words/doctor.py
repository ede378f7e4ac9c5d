"""The words of ``llava-moe doctor``: none, or ``ranks=true`` and a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_moe.config.as_typed import as_typed
from llava_moe.config.nearest_key import suggest
from llava_moe.errors import UserError

KEYS = ("ranks", "out")


def main(words: Sequence[str]) -> int:
    """Refuse words, then examine the machine, or the processes that a launcher has started."""
    given = dict(as_typed(word).partition("=")[::2] for word in words)
    for key, value in given.items():
        if key not in KEYS or not value:
            raise UserError(
                f"doctor takes no {key}{suggest(key, KEYS)}: llava-moe doctor for this machine, or "
                "doctor ranks=true out=FOLDER by a launcher for all processes"
            )
    if given.get("ranks", "false") not in ("true", "false"):
        raise UserError(f"ranks={given['ranks']}: give true or false")
    if given.get("ranks") == "true":
        from llava_moe.commands.doctor_ranks import examine_ranks

        return examine_ranks(Path(given.get("out", ".")))
    if "out" in given:
        raise UserError("out= of doctor is the folder that ranks=true looks for on all machines: add ranks=true")
    from llava_moe.commands.doctor import examine

    return examine()
