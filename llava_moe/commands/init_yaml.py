"""The yaml that ``init`` writes: the sources as found, and what else may be said of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llava_moe.commands.init_guess import Guess
from llava_moe.data.readers.files import is_address

_END = """\
# What else a source may say (its default in brackets):
#   repeats: 2.0         passes over it in an epoch (1.0); cap: 1000: most of its records in an epoch (null)
#   split: val           the split that is read (train and what names none); all: every record
#   weight: 2.0          its share, where epoch_samples beside sources fixes an epoch's size (1.0)
#   shuffle_turns: true  each record's questions in a random order (false)
# Several sources may have one domain. Beside sources may stand what stands under data in
# `llava-moe train --cfg job`, such as max_bad_share: 0.01 or weights: tokens.
"""


def yaml_of(file: Path, guesses: Sequence[Guess], held_out: float) -> str:
    """The text of the file; paths are written as they are from its folder."""
    names = ", ".join(guess.source.name for guess in guesses)
    lines = [
        f"# A mixture of {_one_line(names)}, written by llava-moe init.",
        "# Paths start from the folder of this file. It is read by data=FILE, wherever that is typed.",
    ]
    if held_out:
        lines.append(f"held_out: {held_out:g}   # of the images, with all their records: the loss is measured on them")
    lines.append("sources:")
    for guess in guesses:
        source = guess.source
        lines.append(f"  {_scalar(source.name)}:   # {_found(guess)}")
        lines.append(f"    domain: {_scalar(source.domain)}   # losses and experts are counted by it")
        lines.append(f"    path: {_scalar(_from(file, source.path))}")
        if source.format != "auto":
            lines.append(f"    format: {source.format}")
        if source.images is not None:
            lines.append(f"    images: {_scalar(_from(file, source.images))}{_share(guess)}")
        if source.split is not None:
            lines.append(f"    split: {_scalar(source.split)}")
    return "\n".join(lines) + "\n" + _END


def _found(guess: Guess) -> str:
    splits = {name: count for name, count in sorted(guess.splits.items())}
    told = "" if len(splits) < 2 else " (" + ", ".join(f"{name} {count:,}" for name, count in splits.items()) + ")"
    return _one_line(f"{guess.num_records:,} records{told}")


def _share(guess: Guess) -> str:
    root = guess.root
    return "" if root is None else f"   # {root.num_found:,} of {root.num_sought:,} images looked for are there"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _from(file: Path, place: str) -> str:
    """A place as it is from the folder of the file, which may be moved together with it."""
    if is_address(place) or os.path.isabs(os.path.expanduser(place)):
        return place
    return os.path.relpath(place, file.parent)


def _scalar(value: Any) -> str:
    """A value as YAML writes it on one line, with nothing in it that OmegaConf would read as an interpolation."""
    text = str(value).replace("${", "\\${")
    written = yaml.safe_dump(text, allow_unicode=True, width=100_000)
    return written.removesuffix("\n").removesuffix("...").removesuffix("\n")
