"""The words of ``llava-moe compose``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.as_typed import as_typed, set_key, told_how_to_go_on
from llava_moe.config.hydra_compose import compose_again, resolved, run_composed
from llava_moe.config.key_limits import FLAG, MOLE
from llava_moe.config.limits import FilePath, Limit, ListOf, OneOf, OrNull, Real, Text, Whole
from llava_moe.config.rates import notes_on_old_words
from llava_moe.config.settings import settle
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.runs.out_folder import refuse_foreign
from llava_moe.text.escape_control import visible

MERGES = ("linear", "normalized_linear", "svd", "ties", "dare_ties")
# Settings of MoLE that compose takes by their bare names.
ADAPTER_KEYS = ("experts", "granularity", "temperature", "balance_coef", "mask", "exact")
OWN_KEYS = (*ADAPTER_KEYS, "run", "method", "pick", "split", "limit", "weights", "density", "rank", "layers")
LIMITS: dict[str, Limit] = {
    "experts": OrNull(ListOf(FilePath())),
    "run": OrNull(FilePath()),
    "out": OrNull(FilePath()),
    "mask": OrNull(ListOf(OneOf((0, 1)))),
    "method": OneOf(("mole", *MERGES)),
    "pick": FLAG,
    "split": Text(),
    "limit": Whole(1),
    "weights": OrNull(ListOf(Real(float("-inf")))),
    **{key: MOLE[key] for key in ("granularity", "temperature", "balance_coef", "exact")},
    "density": Real(0, 1, open_below=True),
    "rank": OrNull(Whole(1)),
    "layers": OrNull(ListOf(Whole(0))),
}


def main(words: Sequence[str]) -> int:
    """Judge the words, then compose the model."""
    own = [word for word in words if set_key(word) in OWN_KEYS]
    rest = [word for word in words if set_key(word) not in OWN_KEYS]
    if any(set_key(word) == "run" for word in own):
        return run_composed("compose", words, lambda config, _: _begin_mask(config))
    with told_how_to_go_on():
        given = [*_train_words(own, rest), *rest]
        return run_composed("train", given, lambda config, _: _begin(config, own, rest, words))


def _train_words(own: Sequence[str], rest: Sequence[str]) -> list[str]:
    """What training needs to be told beside the user's own words."""
    given = {set_key(word): word.partition("=")[2] for word in own}
    if not given.get("experts"):
        raise UserError("compose needs experts=: folders of LoRAs, such as experts=[runs/general,runs/documents]")
    for key, instead in (("adapter", "method= says how to compose"), ("stage", "compose has a stage of its own")):
        if any(set_key(word) == key for word in rest):
            raise UserError(f"{key}= is not for compose: {instead}; leave it out")
    words = ["adapter=mole", "stage=compose"]
    if not any(set_key(word) == "exp" for word in rest):
        words.append("exp=mix_general_doc_med")
    return words + [f"adapter.{key}={_as_list(key, value)}" for key, value in given.items() if key in ADAPTER_KEYS]


def _as_list(key: str, value: str) -> str:
    return f"[{value}]" if key == "experts" and not value.startswith("[") else value


def _begin_mask(config: DictConfig) -> int:
    choices = resolved(config, "compose")
    check_settings(choices, LIMITS)
    if choices["experts"] is not None or choices["mask"] is None or choices["out"] is None:
        raise UserError("compose run= leaves experts out of a composition: give mask=[1,0] and out=FOLDER, no experts=")
    refuse_foreign(Path(choices["out"]))
    from llava_moe.commands.compose import mask

    return mask(choices)


def _begin(config: DictConfig, own: Sequence[str], rest: Sequence[str], words: Sequence[str]) -> int:
    own = [f"{set_key(word)}={_as_list(set_key(word), word.partition('=')[2])}" for word in own]
    choices = resolved(compose_again("compose", own), "compose")
    check_settings(choices, LIMITS)
    plain = settle(resolved(config), rest)
    _check_words(choices, plain)
    if plain["out"]:
        refuse_foreign(Path(plain["out"]))
    for note in notes_on_old_words(rest):
        sys.stdout.write(visible(note) + "\n")
    from llava_moe.commands.compose import compose

    return compose(choices, plain, [*map(as_typed, words)])


def _check_words(choices: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    if choices["method"] == "mole" and choices["layers"] is not None:
        raise UserError("layers= is of merges: give a method=, such as method=linear")
    if len(choices["experts"]) < 2 and choices["layers"] is None:
        raise UserError(f"experts={choices['experts']}: a composition needs two LoRAs or more")
    if choices["method"] == "mole" and choices["mask"] is not None and sum(choices["mask"]) == 1:
        raise UserError(f"mask={choices['mask']} leaves one expert, so there is nothing to train: use that LoRA itself")
    if plain["stages"] is not None:
        raise UserError("compose trains one stage: give an experiment without stages, such as exp=mix_general_doc_med")
