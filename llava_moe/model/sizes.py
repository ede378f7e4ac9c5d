"""Sizes that a model's configuration claims, held against its files and the machine before anything is built of them.

A number in ``config.json`` costs nothing to write. Layers without weights are made one by one and filled at random
before anybody asks whether they were there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llava_moe.errors import UserError
from llava_moe.model.checkpoint_files import file_of, read_json

MOST_LAYERS, MOST_PATCHES, MOST_PIXELS, MOST_SIZE = 1_000, 1 << 16, 1 << 13, 1 << 40
"""Beyond every model that there is; a side of an image in pixels."""
MOST_PACKED = 8
"""Weights in one number of a file, where they are quantised."""
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,6})\.")
_OF_IMAGES = ("image_size", "patch_size", "num_channels")
_COUNTED = ("hidden_size", "intermediate_size", "num_hidden_layers")


def refuse_sizes_without_end(parts: Mapping[str, Any], reference: str) -> None:
    """Refuse towers that nothing was ever built of, whatever memory there is.

    Args:
        parts: configurations by the name that messages give them.
        reference: the model's name.

    Raises:
        UserError: naming the number.
    """
    for part, config in parts.items():
        sizes = {key: getattr(config, key, None) for key in (*_COUNTED, "vocab_size", *_OF_IMAGES)}
        for key, size in sizes.items():
            if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
                raise UserError(f"model {reference}: {part} has {key}={str(size)[:40]}, which is no count: fix it")
        most = dict.fromkeys(sizes, MOST_SIZE)
        most |= {"num_hidden_layers": MOST_LAYERS, "image_size": MOST_PIXELS, "num_channels": 3}
        for key, bound in most.items():
            if (sizes[key] or 0) > bound:
                raise UserError(f"model {reference}: {part} has {key}={str(sizes[key])[:40]}, above {bound:,}: fix it")
        side, patch = sizes["image_size"], sizes["patch_size"]
        if side and patch and (side // patch) ** 2 > MOST_PATCHES:
            raise UserError(
                f"model {reference}: {part} has image_size={side} and patch_size={patch}, which makes "
                f"{(side // patch) ** 2:,} patches of an image, above {MOST_PATCHES:,}: fix them"
            )


def refuse_beyond_memory(parts: Iterable[Any], reference: str, dtype: torch.dtype) -> None:
    """Refuse a shape that is to be filled at random and that the machine cannot hold.

    Raises:
        UserError: saying how much it would take.
    """
    numbers = sum(map(_fewest_numbers, parts))
    needed, there = numbers * dtype.itemsize, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise UserError(
            f"model {reference} has {numbers:.2e} numbers, {needed / 2**30:,.0f} GiB, and this machine has "
            f"{there / 2**30:,.0f} GiB of memory: give smaller sizes"
        )


def refuse_more_than_on_file(path: str, reference: str, config: Any) -> None:
    """Refuse layers and numbers that a checkpoint's safetensors files do not hold.

    Args:
        path: a folder or hub id.
        config: of the whole checkpoint.

    Raises:
        UserError: naming the number; a file that is damaged, or that an index names elsewhere.
    """
    shapes = _shapes_on_file(path, reference)
    if not shapes:
        return  # of another format, or not there: loading says so
    on_file = 1 + max((int(found[1]) for name in shapes if (found := _LAYER.search(name))), default=-1)
    numbers = sum(_product(shape) for shape in shapes.values())
    parts = [part for key in ("text_config", "vision_config") if (part := getattr(config, key, None)) is not None]
    for part in parts or [config]:
        layers = getattr(part, "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > on_file:
            raise UserError(
                f"model {reference}: its config.json says num_hidden_layers={layers}, its weights have at most "
                f"{on_file} layers: the files are of two models, copy them again"
            )
    if (claimed := sum(map(_fewest_numbers, parts or [config]))) > MOST_PACKED * numbers:
        raise UserError(
            f"model {reference}: the sizes in its config.json make at least {claimed:.2e} numbers, its weights have "
            f"{numbers:.2e}: the files are of two models, copy them again"
        )


def _fewest_numbers(config: Any) -> int:
    """Numbers that a tower of these sizes has at the very least, whatever its kind of attention."""
    sizes = {key: getattr(config, key, 0) for key in (*_COUNTED, "vocab_size")}
    hidden, inner, layers, rows = (size if isinstance(size, int) and size > 0 else 0 for size in sizes.values())
    has_table = getattr(config, "image_size", None) is None
    return layers * 2 * hidden * inner + (rows * hidden if has_table else 0)


def _shapes_on_file(path: str, reference: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(path, reference):
        try:
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"model {reference}: {file} is damaged ({reason}): copy it again") from error
    return shapes


def _weight_files(path: str, reference: str) -> list[Path]:
    if (single := file_of(path, SINGLE)) is not None:
        return [single]
    weight_map = read_json(path, INDEX).get("weight_map", {})
    if not isinstance(weight_map, dict) or not all(_is_name(name) for name in weight_map.values()):
        raise UserError(f"model {reference}: {INDEX} does not say which file holds which weight: copy it again")
    return [file for name in sorted(set(weight_map.values())) if (file := file_of(path, name)) is not None]


def _is_name(name: object) -> bool:
    """Whether it names a file of the folder itself."""
    return isinstance(name, str) and name != "" and Path(name).name == name and "\0" not in name


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
