"""``scale=demo`` and data of one's own: embedded data stand in for what is published, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llava_moe.config.as_typed import key_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.rates import RATES
from llava_moe.text.structured_text import parse_yaml

SCALE = "scale=demo"
# The one shipped file of the group whose sources are the user's.
OWN = "mine"


def words_that_keep_own(words: Sequence[str], compose: Callable[[list[str]], DictConfig]) -> list[str]:
    """More words, by which an experiment of one's own keeps its data and the parts it trains under ``scale=demo``.

    Args:
        compose: words -> the configuration with Hydra's own, in which the chosen files stand.
    """
    keys = {key_of(word) for word in words}
    named = [word.partition("=")[2] for word in words if key_of(word) == "exp"]
    if SCALE not in words or not named or named[-1] in _shipped("exp"):
        return []
    unscaled = compose([word for word in words if key_of(word) != "scale"])
    chosen = unscaled.hydra.runtime.choices["data"]
    kept = [f"data={chosen}"] if "data" not in keys and chosen not in _shipped("data") - {OWN} else []
    stage: Any = OmegaConf.to_container(unscaled.stage, resolve=False)
    for part, rate in stage["learning_rates"].items():
        has_demo_rate = part in (stage.get("demo") or {}).get("learning_rates", {})
        if rate is not None and not has_demo_rate and f"{RATES}.{part}" not in keys and RATES not in keys:
            kept.append(f"++{RATES}.{part}={rate}")
    return kept


def swap_published_sources(config: dict[str, Any], words: Sequence[str]) -> None:
    """Under ``scale=demo``, put embedded records in the place of published data that a mixture of one's own names.

    A source counts as published where it names a shipped recipe and lies where that recipe is prepared. Of several
    that have the same embedded counterpart the first stands for all.
    """
    data = config["data"]
    if SCALE not in words or not any(source.get("recipe") for source in data["sources"].values()):
        return
    embedded = parse_yaml((config_folder() / "data" / "demo.yaml").read_bytes())["sources"]
    recipes, swapped, used = _shipped_recipes(), {}, set[str]()
    for name, source in data["sources"].items():
        recipe = source.get("recipe")
        if recipe not in recipes or source.get("path") != f"{data['root']}/{recipe}":
            swapped[name] = source
            continue
        # Captions are of any domain.
        counterpart = embedded.get(source.get("domain"), next(iter(embedded.values())))
        if counterpart["path"] not in used:
            used.add(counterpart["path"])
            own = {key: source[key] for key in ("domain", "weight") if key in source}
            swapped[name] = {**counterpart, "text": config["stage"]["text"], **own}
    data["sources"] = swapped


def _shipped(group: str) -> set[str]:
    return {path.stem for path in (config_folder() / group).glob("*.yaml")}


def _shipped_recipes() -> set[str]:
    found = set()
    for path in (config_folder() / "data").glob("*.yaml"):
        sources: Mapping[str, Any] = parse_yaml(path.read_bytes())["sources"]
        found |= {source["recipe"] for source in sources.values() if "recipe" in source}
    return found
