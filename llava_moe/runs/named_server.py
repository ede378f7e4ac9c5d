"""The server that the keys below ``model.`` name, which answers in the place of a model in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from llava_moe.errors import UserError
from llava_moe.eval.generation.server import ChatServer


def server_of(given: Mapping[str, Any]) -> ChatServer:
    """The server of ``model.endpoint=``; its key comes from the environment.

    Raises:
        UserError: no address, or an environment variable that is not set.
    """
    named = given["api_key_env"]
    key = os.environ.get(named or "LLAVA_MOE_API_KEY")
    if named is not None and not key:
        # In the place of a name many a key has been given.
        told = named if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", named) else ""
        raise UserError(
            f"model.api_key_env={told}: no such variable in the environment, or it is empty; set it, and give its name "
            "here, not the key"
        )
    settings = {name: given[name] for name in ("timeout", "attempts") if given[name] is not None}
    return ChatServer(given["endpoint"], given["name"], key.strip() if key else None, **settings)
