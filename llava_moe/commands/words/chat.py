"""The words of ``llava-moe chat``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.chat.line import image_path, refuse_no_file
from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.image_keys import refuse_for_run
from llava_moe.config.key_limits import EVAL, READING, SHARED
from llava_moe.config.limits import FilePath, Limit, OrNull, Real, Text, Whole
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint

LIMITS: dict[str, Limit] = {
    **{key: EVAL[key] for key in ("run", "num_threads", "dtype")},
    **{key: SHARED[key] for key in ("seed", "model.path")},
    **{key: EVAL[key] for key in ("model.peft", "model.template", "model.image_mode")},
    **READING,
    "image": OrNull(FilePath()),
    "prompt": OrNull(Text(may_be_empty=True)),
    "max_new_tokens": Whole(1),
    "temperature": Real(0),
    "top_p": Real(0, 1, open_below=True),
    "repetition_penalty": Real(0.01, 100),
}

LOWEST_TEMPERATURE = 0.001
"""Logits divided by less leave the range of fp32."""


def main(words: Sequence[str]) -> int:
    """Judge the words, then talk."""
    return run_composed("chat", words, lambda config, _: _begin(config))


def _begin(config: DictConfig) -> int:
    plain = resolved(config, "chat")
    _check_words(plain)
    from llava_moe.commands.chat import chat

    return chat(plain)


def _check_words(plain: Mapping[str, Any]) -> None:
    check_settings(plain, LIMITS)
    given = plain["model"]
    if (plain["run"] is None) == (given["path"] is None):
        raise UserError("chat needs one model: run=FOLDER, or model.path= a LLaVA checkpoint's folder or hub id")
    for key in ("peft", "template", "image_mode"):
        if given[key] is not None and given["path"] is None:
            raise UserError(f"model.{key}= belongs to model.path=, which is not given: leave it out, or give both")
    refuse_for_run(plain)
    if 0 < plain["temperature"] < LOWEST_TEMPERATURE:
        raise UserError(
            f"temperature={plain['temperature']}: give 0 (always the likeliest token) or at least {LOWEST_TEMPERATURE}"
        )
    if plain["prompt"] is not None and not plain["prompt"].strip():
        raise UserError("prompt= is empty: write a question there, or leave prompt= out to talk")
    if plain["run"] is not None:
        newest_checkpoint(Path(plain["run"]))
    if plain["image"] is not None:
        refuse_no_file(image_path(plain["image"]))
