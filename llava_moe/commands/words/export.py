"""The words of ``llava-moe export``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.key_limits import BY_DOMAIN
from llava_moe.config.limits import FilePath, Limit, OneOf, OrNull, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.runs.out_folder import refuse_unwritable
from llava_moe.runs.stop_signals import StopSignals

LIMITS: dict[str, Limit] = {
    "run": OrNull(FilePath()),
    "to": OrNull(OneOf(("hf", "peft"))),
    "out": OrNull(FilePath()),
    "dtype": OrNull(OneOf(("fp32", "bf16"))),
    "static": OrNull(Text()),
    "split": Text(),
    "limit": Whole(1),
    "num_threads": OrNull(Whole(1)),
    "seed": Whole(0),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then export."""
    return run_composed("export", words, lambda config, _: _begin(config))


def _begin(config: DictConfig) -> int:
    plain = resolved(config, "export")
    check_settings(plain, LIMITS)
    _check_words(plain)
    from llava_moe.commands.export import export

    with StopSignals(lambda: ""):
        return export(plain)


def _check_words(plain: dict[str, Any]) -> None:
    for key, example in (("run", "runs/NAME"), ("to", "hf or to=peft"), ("out", "FOLDER")):
        if plain[key] is None:
            raise UserError(f"export needs {key}=: add {key}={example}")
    static, out = plain["static"], Path(plain["out"])
    if static is not None and static != "uniform" and not static.startswith(BY_DOMAIN):
        raise UserError(f"static={static}: give static=uniform or static=by_domain=NAME")
    if static is not None and plain["to"] == "peft":
        raise UserError("static= is for to=hf, which merges the experts; to=peft keeps each: leave static= out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} is there already: give another folder, or remove it")
    refuse_unwritable(out)
    newest_checkpoint(Path(plain["run"]))
