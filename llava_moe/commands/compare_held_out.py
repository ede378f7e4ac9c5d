"""Before anything is trained: whether each domain has records held out of training, on which losses are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from rich.console import Console

from llava_moe.assemble import encoder_of, model_spec_of
from llava_moe.config.settings import is_embedded
from llava_moe.data.held_out import HeldOutSource, image_groups, least_share
from llava_moe.errors import UserError
from llava_moe.run_config import RunConfig
from llava_moe.runs.held_out_sources import held_out_sources
from llava_moe.runs.processes import Processes
from llava_moe.runs.stage_data import open_data

FEWEST = 2
"""Records of a domain: an interval needs two items."""


def refuse_unmeasured(configs: Iterable[RunConfig], console: Console) -> None:
    """Refuse data of one's own in which a domain has no records, or too few, that no run trains on.

    Each data is read once, as the first training would read it, and is found read then.

    Args:
        configs: of the last stages.
        console: where bars pass by.

    Raises:
        UserError: naming the domain, and the share that would hold enough of it.
    """
    seen = set()
    for config in configs:
        told = json.dumps([config.plain["data"], config.domains, config.eval.split], sort_keys=True, default=str)
        if told not in seen and not is_embedded(config):
            _refuse_unmeasured(config, console)
        seen.add(told)


def _refuse_unmeasured(config: RunConfig, console: Console) -> None:
    encoder = encoder_of(model_spec_of(config.changed(init_from=None)))
    share = config.data.held_out
    try:
        found, told = held_out_sources(config, encoder, None, torch.device("cpu"), console)
    except UserError as error:
        if "held no record out" not in str(error):
            raise
        raise UserError(
            "nothing of this data is held out of training, and losses are compared on such records: add "
            "data.held_out=0.1, or eval.split=NAME of a split that is there"
        ) from error
    counts = _counts(found)
    short = [domain for domain, number in counts.items() if number < FEWEST]
    if not short:
        return
    domain = short[0]
    records = "1 held-out record" if counts[domain] == 1 else f"{counts[domain]} held-out records"
    have = f"domain {domain} has {records} ({told}), and its loss needs {FEWEST}"
    if not share or config.eval.split:
        raise UserError(f"{have}: give it more, or hold some out with data.held_out=0.1")
    data = open_data(config, encoder, Processes(0, 1, torch.device("cpu"), "local"), console, says=False)
    groups = image_groups([*data.indexes, *data.held_out])
    sources = [*data.mixture.sources] * 2
    own = np.concatenate([one for one, source in zip(groups, sources, strict=True) if source.domain == domain])
    needed = math.ceil(100 * least_share(own, FEWEST) + 1e-9) / 100
    if needed > 0.5:
        raise UserError(f"{have}: its {len(own)} records are too few, or share their images; give it more")
    raise UserError(f"{have}: of its {len(own)} records data.held_out={needed:g} holds as many")


def _counts(found: Sequence[HeldOutSource]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for one in found:
        counts[one.source.domain] = counts.get(one.source.domain, 0) + len(one.index.rows)
    return counts
