"""Words of the command line rewritten for Hydra, whose grammar they would not all pass; ``as_typed`` turns them back.

Everything here is read before Hydra is loaded.
"""

from __future__ import annotations

import os
import re

from llava_moe.config.free_text import FREE_TEXT, MIXTURE_ENDINGS, NO_PATHS, OPEN_ENDED, OPEN_MAPPINGS

# What Hydra's grammar takes for a name as it stands.
_PLAIN_PATH = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")


def prepare_override(word: str) -> str:
    """Rewrite one argument for Hydra: quote free text, and take ``+exp=X`` for ``exp=X``."""
    key, equals, value = word.partition("=")
    if not equals or word.startswith("-"):
        return word
    bare = key.lstrip("+")
    if bare == "data" and value.endswith(MIXTURE_ENDINGS):
        value = os.path.expanduser(value)
        # With a comma in it, it may be several files of a sweep.
        return (
            f"{key}={quote(value)}" if not _PLAIN_PATH.fullmatch(value) and os.path.isfile(value) else f"{key}={value}"
        )
    if not bare.startswith(OPEN_ENDED):
        key = bare
    elif key == bare and not bare.startswith("hydra."):
        key = f"++{bare}"
    if bare in OPEN_MAPPINGS:
        key = f"++{bare}"
    if value.startswith("~/") and (bare in FREE_TEXT or bare.startswith("benchmark_paths.")) and bare not in NO_PATHS:
        value = os.path.expanduser(value)  # shells leave it as it is behind a key, and a folder called ~ would be made
    if (bare in FREE_TEXT or bare.startswith("benchmark_paths.")) and value not in ("null", ""):
        return f"{key}={quote(value)}"
    return f"{key}={value}"


def quote(text: str) -> str:
    """Quote text so that Hydra's grammar and OmegaConf's interpolation both give it back unchanged.

    Both take a backslash for itself, except where a run of them stands before a quote (Hydra), at the text's end
    (Hydra) or before ``${`` (OmegaConf): there each is doubled, and one more keeps what follows from its meaning.
    """
    protected = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    protected = re.sub(r"(\\*)'", lambda found: found[1] * 2 + r"\'", protected)
    num_trailing = len(protected) - len(protected.rstrip("\\"))
    return "'" + protected + "\\" * num_trailing + "'"
