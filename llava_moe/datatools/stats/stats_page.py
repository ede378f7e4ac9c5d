"""``stats.html`` and ``stats.json``: an experiment's account as one self-contained page, and as exact numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from llava_moe.datatools.stats.groups import Group
from llava_moe.datatools.stats.page import render
from llava_moe.datatools.stats.stage import StageAccount
from llava_moe.datatools.stats.tables import stage_tables
from llava_moe.datatools.stats.terminal import seating_lines, summary_line, warning_lines
from llava_moe.datatools.stats.token_counts import Tally
from llava_moe.pages.domain_colors import colors_of

_BARS = (("samples", "of_samples"), ("tokens", "of_tokens"), ("supervised", "of_supervised"), ("loss", "of_loss"))


def stats_page(title: str, words: str, accounts: Sequence[StageAccount]) -> str:
    """The page of an experiment's stages; ``words`` are those of ``train``."""
    colors = colors_of([group.name for account in accounts for group in account.of("domain")])
    return render(
        "stats.html.j2", title=title, words=words, colors=colors, stages=[_section(account) for account in accounts]
    )


def _section(account: StageAccount) -> dict[str, Any]:
    domains = account.of("domain")
    return {
        "title": account.title,
        "summary": summary_line(account),
        "domains": domains,
        "bars": [(name, [(group.name, getattr(group.epoch, part)) for group in domains]) for name, part in _BARS],
        "tables": stage_tables(account),
        "seating": seating_lines(account),
        "warnings": warning_lines(account),
    }


def stats_json(words: str, accounts: Sequence[StageAccount]) -> str:
    """The accounts with every field under its name in this package; counts are exact."""
    content = {"train": words, "stages": [_plain(account) for account in accounts]}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, with what they work out of their fields."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if not is_dataclass(value):
        return value
    plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Tally):
        plain["prompt_tokens"] = value.prompt_tokens
    if isinstance(value, Group):
        plain |= {"passes": value.passes, "training_passes": value.training_passes}
    return plain
