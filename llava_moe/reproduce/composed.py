"""MoLE's grids: a LoRA of each domain on one frozen base, gates learned over them, and merges of them.

A composition has one projector, so these LoRAs train with that of stage 1 frozen: they are not those of LLaVA-MoLE's
figures, which train it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llava_moe.grid.cell import Words
from llava_moe.grid.ways import Ways
from llava_moe.reproduce.build import Build
from llava_moe.reproduce.setup import Setup

EXPERT, GATES = "expert", "mole"
_LORA = {"label": str, "words": [str]}
SHARED_NOTES = (
    "The LoRAs of the domains train with the projector of stage 1 frozen, for a composition has one projector.",
    "Parameters of a composition count the LoRAs that it holds, which are frozen, beside its gates.",
)


def train_experts(build: Build, seed: int, is_measured: bool = True) -> list[str]:
    """Add a LoRA of each domain, by the axis ``expert``; give their names in the domains' order."""
    words = build.setup.axis("expert", _LORA)["words"]
    return [build.train(EXPERT, words, [domain], seed, is_measured=is_measured) for domain in build.setup.domains]


def expert_ways(setup: Setup) -> dict[str, Ways]:
    """Domain to its LoRA alone."""
    label = setup.axis("expert", _LORA)["label"]
    return {domain: Ways(label.format(domain=domain), {"model": EXPERT, "on": domain}) for domain in setup.domains}


def compose_gates(
    build: Build,
    words: Sequence[str],
    experts: Sequence[str],
    seed: int,
    *,
    domains: Sequence[str] = (),
    more: Sequence[Words] = (),
    **labels: Any,
) -> str:
    """Add MoLE's gates over cells, by the axes ``base`` and ``gates``; give the name.

    Args:
        domains: on whose samples they learn; all by default.
        words, more, labels: as of :meth:`~llava_moe.reproduce.build.Build.compose`.
    """
    setup = build.setup
    domains = domains or setup.domains
    caps = [f"data.sources.{name}.cap={num}" for domain in domains for name, num in setup.samples[domain].items()]
    chosen = [f"domains=[{','.join(domains)}]", *caps]
    gates = [*setup.axis("base", [str]), *setup.axis("gates", [str]), *setup.both, *chosen, *words]
    return build.compose(GATES, gates, experts, seed, on=on_name(setup, domains), more=more, **labels)


def merge_experts(
    build: Build,
    model: str,
    words: Sequence[str],
    experts: Sequence[str],
    seed: int,
    *,
    domains: Sequence[str] = (),
    **labels: Any,
) -> str:
    """Add a merge of cells, with ``method=`` among the words; give the name.

    Args:
        domains: those of the cells; all by default.
    """
    setup = build.setup
    on = on_name(setup, domains or setup.domains)
    return build.compose(model, [*setup.axis("base", [str]), *setup.both, *words], experts, seed, on=on, **labels)


def on_name(setup: Setup, domains: Sequence[str]) -> str:
    """The label ``on`` of a composition of these domains; all of them are the axis ``whole``, or ``mix``."""
    whole: str = setup.axis("whole", str) if "whole" in setup.axes else "mix"
    return whole if tuple(domains) == setup.domains else "_".join(domains)
