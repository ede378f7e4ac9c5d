"""Learning rates by part, as the command line says them: one name at every scale, with any adapter or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.config.as_typed import key_of
from llava_moe.config.nearest_key import suggest
from llava_moe.errors import UserError

RATES = "stage.learning_rates"
LAYERS = "stage.vision_layers"
PARTS = ("adapter", "projector", "language_model", "vision_tower")
NO_ADAPTER = "llava_moe.adapters.NoAdapter"
# Words of earlier releases, which go on working in this one, and what says the same at every scale.
OLD_WORDS = {
    "stage.demo.learning_rates": RATES,
    "stage.demo.without_adapter": RATES,
    "stage.without_adapter": RATES,
    "stage.demo.vision_layers": LAYERS,
    "stage.demo.max_steps": "train.max_steps",
    "stage.demo.global_batch_size": "train.global_batch_size",
}


def spell_out(words: Sequence[str]) -> list[str]:
    """Words on the rates, said so that Hydra takes them alike at every scale.

    ``stage.learning_rates={...}`` is all of the rates: a part that it does not name is frozen, where Hydra would add to
    what is there. ``~stage.learning_rates.PART`` freezes a part that may be frozen already.
    """
    spelled: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in (RATES, f"++{RATES}"):
            spelled += [f"~{RATES}", f"+{RATES}={value}"]
        elif key.startswith(f"~{RATES}."):
            spelled.append(f"++{key[1:]}=null")
        else:
            spelled.append(word)
    return spelled


def settle_rates(config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Leave the rates of the parts that train in ``stage.learning_rates``.

    A part whose rate is null is frozen. ``adapter=none`` takes the stage's rates for training without an adapter, but
    where the command line says a part's rate, that holds. Layers of a tower that is frozen are not asked for.

    Args:
        words: the words that the configuration was composed of.

    Raises:
        UserError: the command line gives a rate to an adapter that is not there, or names a part that no model has.
    """
    stage = config["stage"]
    rates, others = stage["learning_rates"], stage["without_adapter"]
    typed = {key_of(word) for word in words}
    named = {key.removeprefix(f"{RATES}.") for key in typed if key.startswith(f"{RATES}.")}
    if config["adapter"].get("_target_") == NO_ADAPTER:
        if "adapter" in named and rates.get("adapter") is not None:
            raise UserError(
                f"{RATES}.adapter={rates['adapter']:g}: there is no adapter to train with adapter=none; choose one, "
                "such as adapter=lora, or leave its rate out"
            )
        if others is not None and RATES not in typed:
            rates = {part: rate for part, rate in others.items() if part not in named} | {
                part: rate for part, rate in rates.items() if part in named
            }
    for part in rates:
        if part not in PARTS:
            raise UserError(f"unknown key {RATES}.{part}{suggest(str(part), PARTS)}: the parts are {', '.join(PARTS)}")
    stage["learning_rates"] = {part: rate for part, rate in rates.items() if rate is not None}
    if "vision_tower" not in stage["learning_rates"] and LAYERS not in typed:
        stage["vision_layers"] = None


def notes_on_old_words(words: Sequence[str]) -> list[str]:
    """A line for each word of an earlier release, with what to say instead."""
    notes = []
    for word in words:
        key = key_of(word)
        for old, new in OLD_WORDS.items():
            if key == old or key.startswith(f"{old}."):
                today = new + (key.removeprefix(old) if new == RATES else "")
                notes.append(f"{key} is the name of an earlier release and will go: {today} says it")
    return notes
