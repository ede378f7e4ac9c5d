"""What a run leaves for its reader: the report page and the commands to type next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from llava_moe.commands.typed_words import as_typed
from llava_moe.report.run import report_run


def next_commands(root: Path, has_scores: bool, train_words: Sequence[str] | None = None) -> list[str]:
    """Commands that make sense after this run.

    Args:
        train_words: the words that trained it, which a run to compare with needs too; None where they are not known.
    """
    where = shlex.quote(str(root))
    first = f"llava-moe eval run={where}" if not has_scores else f"llava-moe eval run={where} limit=200"
    return [
        first,
        *([] if train_words is None else [_compared(train_words)]),
        "llava-moe train exp=mix_general_doc_med --cfg job   # the 7B experiment, as it would run",
    ]


def _compared(words: Sequence[str]) -> str:
    """The same training with another adapter, in a folder of its own."""
    typed = [as_typed(word) for word in words]
    other, name = ("llava_mole", "LLaVA-MoLE") if "adapter=lora" in typed else ("lora", "plain LoRA")
    kept = [word for word in typed if not word.lstrip("+~").startswith(("adapter=", "adapter.", "out="))]
    return f"{shlex.join(['llava-moe', 'train', *kept, f'adapter={other}'])}   # the same story with {name}, to compare"


def write_run_report(root: Path, stages: list[Path] | None = None, train_words: Sequence[str] | None = None) -> Path:
    """Write ``report.html`` into a run's or an experiment's folder."""
    has_scores = (root / "eval" / "results.json").is_file()
    return report_run(root, next_commands=next_commands(root, has_scores, train_words), stages=stages)
