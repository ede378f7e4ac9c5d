"""A resolved configuration is settled and judged here, and becomes the typed objects of data and training."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_moe.config.as_word import as_word
from llava_moe.config.key_limits import PHASE, SOURCE, TRAIN
from llava_moe.config.own_data import swap_published_sources
from llava_moe.config.path_mappings import spread_paths
from llava_moe.config.rates import settle_rates
from llava_moe.config.validator import build, check_settings, check_target
from llava_moe.embedded_base import EMBEDDED
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig
from llava_moe.train.folder import FREE_KEYS, UNNAMED_KEYS, flatten

if TYPE_CHECKING:
    # Words are judged before anything of these is loaded.
    from llava_moe.data.largest_remainder import Phase
    from llava_moe.data.mixture import Mixture
    from llava_moe.data.records import Source
    from llava_moe.train.optimizer import OptimizerSettings

CONFLICT = "conflict"
"""The format of sources that conflict on purpose."""
# Where the mixtures look for prepared folders unless they are told otherwise.
DATA_ROOT = "data"


def embedded_images() -> Path:
    """Folder of the images that ship with the package."""
    return Path(__file__).resolve().parent.parent / "demo" / "images"


def is_embedded(config: RunConfig) -> bool:
    """Whether a run learns from the data that ships with the package, which the demo's questions are about."""
    # A source that was given no path is told of where the sources are read.
    return all(str(source.get("path")).startswith(EMBEDDED) for source in config.data.sources.values())


def settle(config: dict[str, Any], words: Sequence[str] = ()) -> dict[str, Any]:
    """Apply the choices that one key makes for another.

    ``adapter=none`` takes the stage's rates for training without one; ``model.path`` names the checkpoint to start at.

    Args:
        words: the words that the configuration was composed of.

    Raises:
        UserError: a value of another kind than the setting's, or out of its bounds.
    """
    check_settings(config, TRAIN)
    spread = spread_paths(config)
    swap_published_sources(config, words)
    for name, source in config["data"]["sources"].items():
        # A path that is not there yet has a line of its own.
        check_settings({key: value for key, value in source.items() if key != "path"}, SOURCE, f"data.sources.{name}.")
    settle_rates(config, words)
    model = config["model"]
    check_target(config["adapter"], "adapter")
    check_target(model["architecture"], "model.architecture")
    if model["path"] is not None:
        model["architecture"] = {"_target_": "llava_moe.model.FromCheckpoint", "path": model["path"]}
    _check_together(config, spread)
    return config


def _check_together(config: Mapping[str, Any], spread: Sequence[str]) -> None:
    train, sources = config["train"], config["data"]["sources"].values()
    for key in ("path", "images", "value_range"):
        if key in spread:
            continue
        if config[key] is not None and not any(source.get(key) == config[key] for source in sources):
            raise UserError(f"{key}={config[key]} is not read by the data that was chosen: add data=mine")
    if config["conflict"] is not None and not any(source.get("format") == CONFLICT for source in sources):
        raise UserError(f"conflict={config['conflict']} is not read by the data that was chosen: add data=conflict")
    root = config["data"]["root"]
    if root != DATA_ROOT and not any(str(source.get("path")).startswith(root) for source in sources):
        raise UserError(f"data.root={root} is not read by the data that was chosen: no path of its sources follows it")
    if train["max_length"] > train["tokens_per_micro_batch"]:
        raise UserError(
            f"train.max_length={train['max_length']} is longer than a row (train.tokens_per_micro_batch="
            f"{train['tokens_per_micro_batch']}): raise the row or lower the length"
        )
    if train["max_steps"] is None and not train["epochs"]:
        raise UserError(f"train.epochs={as_word(train['epochs'])} and train.max_steps=null: give one of them")


def mixture_of(config: RunConfig) -> Mixture:
    """The mixture of a configuration.

    Raises:
        UserError: as :func:`sources_of`.
    """
    from llava_moe.data.mixture import Mixture

    data = config.data
    return Mixture(
        sources=sources_of(config),
        seed=config.seed,
        epoch_samples=data.epoch_samples,
        weights=data.weights,
        temperature=data.temperature,
        max_bad_share=data.max_bad_share,
        held_out=data.held_out,
        phases=_phases_of(data.phases),
    )


def sources_of(config: RunConfig) -> tuple[Source, ...]:
    """The sources of a configuration, filtered by ``domains`` where the data follows it.

    ``domain_scale`` multiplies the repeats, the cap and the weight of a domain's sources, so that twice a domain is
    twice its samples in an epoch of any size, and twice its share in an epoch of a fixed size.

    Raises:
        UserError: unknown fields of a source, or a domain that no source has.
    """
    data, domains = config.data, config.domains
    sources = [source_of(name, node) for name, node in data.sources.items()]
    if data.follows_domains:
        known = [source.domain for source in sources]
        if domains is not None:
            _refuse_unknown_domain(domains, known, "domains")
            sources = [source for source in sources if source.domain in domains]
        scale = config.domain_scale or {}
        if scale and data.phases:
            raise UserError("domain_scale and data.phases: phases say the weights themselves; give domain_scale=null")
        _refuse_unknown_domain(scale, known if domains is None else domains, "domain_scale")
        sources = [_scaled(source, scale.get(source.domain, 1.0)) for source in sources]
    if not sources:
        raise UserError("data.sources is empty: give a source, such as data=mine path=FILE")
    return tuple(sources)


def _refuse_unknown_domain(named: Iterable[str], known: Iterable[str], where: str) -> None:
    unknown = [domain for domain in named if domain not in known]
    if unknown:
        there = ", ".join(sorted(set(known)))
        raise UserError(f"{where}: {unknown[0]} is not a domain of this data: it has {there}")


def _scaled(source: Source, scale: float) -> Source:
    cap = None if source.cap is None else max(1, round(source.cap * scale))
    return dataclasses.replace(source, repeats=source.repeats * scale, cap=cap, weight=source.weight * scale)


def _phases_of(nodes: Sequence[Mapping[str, Any]] | None) -> tuple[Phase, ...]:
    from llava_moe.data.largest_remainder import Phase

    phases = []
    for number, node in enumerate(nodes or ()):
        where = f"data.phases[{number}]"
        check_settings(node, PHASE, f"{where}.")
        phases.append(build(Phase, node, where))
    return tuple(phases)


def source_of(name: str, node: Mapping[str, Any]) -> Source:
    """One source of a data configuration."""
    from llava_moe.data.records import Source

    fields = dict(node)
    path = fields.get("path")
    if path is None:
        raise UserError(f"data.sources.{name}.path must be given: add path=FILE and images=FOLDER")
    check_settings(fields, SOURCE, f"data.sources.{name}.")
    if fields.get("value_range") is not None:
        fields["value_range"] = tuple(fields["value_range"])
    if path.startswith(EMBEDDED):
        fields["path"] = str(embedded_images() / path.removeprefix(EMBEDDED))
    return build(Source, {"name": name, **fields}, f"data.sources.{name}")


def optimizer_of(config: RunConfig) -> OptimizerSettings:
    """AdamW's numbers."""
    from llava_moe.train.optimizer import OptimizerSettings

    train = config.train
    return OptimizerSettings(
        betas=(train.betas[0], train.betas[1]),
        epsilon=train.epsilon,
        weight_decay=train.weight_decay,
        gradient_clipping=train.gradient_clipping,
    )


def fingerprint(config: Mapping[str, Any]) -> str:
    """Eight hex digits that change with every setting that changes the result."""
    unnamed = (*FREE_KEYS, *UNNAMED_KEYS)
    flat = {key: value for key, value in flatten(config).items() if not any(_under(key, free) for free in unnamed)}
    return hashlib.sha256(json.dumps(flat, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _under(key: str, free: str) -> bool:
    return key == free or key.startswith(free + ".")
