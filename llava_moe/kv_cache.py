"""The key-value cache of transformers under either of its names: ``cache`` since 5.24, ``past_key_values`` before.

Trap: whoever reads one name alone gets ``None`` under the other, and takes every decoded token for a new prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

CACHE_NAMES = ("cache", "past_key_values")


def cache_name(forward: Any) -> str:
    """By which name ``forward`` takes its cache.

    Raises:
        ValueError: by none that is known here; then nothing that depends on a cache can be right.
    """
    parameters = inspect.signature(forward).parameters
    for name in CACHE_NAMES:
        if name in parameters:
            return name
    raise ValueError(
        f"{getattr(forward, '__qualname__', forward)} takes a cache by none of the names {', '.join(CACHE_NAMES)}: "
        "llava-moe does not know this version of transformers; llava-moe doctor names the tested ones"
    )


def check_cache_name(forward: Any) -> None:
    """Refuse a model that caches (it takes ``use_cache``) and takes the cache by an unknown name.

    Raises:
        ValueError: as ``cache_name``.
    """
    if "use_cache" in inspect.signature(forward).parameters:
        cache_name(forward)


def find_cache(named: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The cache among the keyword arguments of a call, with the name it came by; ``None`` where none is given."""
    return next(((name, named[name]) for name in CACHE_NAMES if named.get(name) is not None), None)


def cached_length(named: Mapping[str, Any]) -> int:
    """How many tokens the cache among the keyword arguments of a call holds.

    Raises:
        ValueError: it does not say.
    """
    found = find_cache(named)
    if found is None:
        return 0
    name, cache = found
    if not hasattr(cache, "get_seq_length"):
        raise ValueError(f"{name} is a {type(cache).__name__}, which does not say how many tokens it holds")
    return int(cache.get_seq_length())


def returned_cache(output: Any) -> Any:
    """The cache in what a model returns; ``None`` where there is none."""
    # Trap: the old name is still answered, with a warning, so the new one is asked for first.
    return next((getattr(output, name) for name in CACHE_NAMES if getattr(output, name, None) is not None), None)
