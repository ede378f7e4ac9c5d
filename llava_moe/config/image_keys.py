"""The keys that say how images are read go with a model that is no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llava_moe.errors import UserError


def refuse_for_run(config: Mapping[str, Any]) -> None:
    """Refuse keys of ``data`` beside ``run=``: other pixels than those of its training would be another model's.

    Raises:
        UserError: naming the first.
    """
    given = [key for key, value in (config.get("data") or {}).items() if value is not None]
    if config["run"] is not None and given:
        raise UserError(f"data.{given[0]}= is for model.path=: a run reads images as it was trained; leave it out")
