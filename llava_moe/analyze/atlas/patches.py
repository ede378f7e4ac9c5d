"""Which expert serves which patch of a picture, as an overlay in the page.

Shape suffixes: P patches.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from llava_moe.analyze.atlas.counts import KINDS, RecordRouting
from llava_moe.data.encode import Example

PICTURE_PIXELS = 192
_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#f0e442", "#999999")


@dataclass(frozen=True)
class PatchMap:
    """A picture as the model sees it, and the expert of each of its patches.

    Attributes:
        domain: of its record.
        picture: a ``data:`` address.
        side: patches along an edge.
        paths: router name to the overlay: (expert, SVG path of its patches, share of the patches), falling by share.
    """

    domain: str
    picture: str
    side: int
    paths: Mapping[str, tuple[tuple[int, str, float], ...]]


def expert_color(expert: int) -> str:
    """One colour for each expert, others than those that stand for domains; beyond eight they go round the circle."""
    return _COLORS[expert] if expert < len(_COLORS) else f"hsl({expert * 137 % 360} 55% {45 + 15 * (expert % 2)}%)"


def patch_map(
    example: Example, found: RecordRouting, domain: str, routers: Mapping[str, int], num_patches: int
) -> PatchMap | None:
    """The overlay of a record's first picture; None where it has none, or its patches form no square.

    Args:
        routers: what to draw, by name: its row among all routers.
        num_patches: tokens of one picture.
    """
    side = math.isqrt(num_patches)
    places = np.flatnonzero(found.kinds_T == KINDS.index("image"))[:num_patches]
    if found.chosen_UT is None or not len(example.pixels) or len(places) < num_patches or side * side != num_patches:
        return None
    paths = {name: _paths(found.chosen_UT[row, places], side) for name, row in routers.items()}
    return PatchMap(domain, _address(example.pixels[0]), side, paths)


def _paths(experts_P: np.ndarray, side: int) -> tuple[tuple[int, str, float], ...]:
    """One path an expert: a rectangle for each run of its patches in a row."""
    numbers, counts = np.unique(experts_P, return_counts=True)
    order: Sequence[int] = np.argsort(-counts, kind="stable").tolist()
    grid = experts_P.reshape(side, side)
    return tuple(
        (int(numbers[at]), "".join(_runs(grid == numbers[at])), float(counts[at] / len(experts_P))) for at in order
    )


def _runs(is_own: np.ndarray) -> list[str]:
    pieces = []
    for y, row in enumerate(is_own):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
        pieces += [f"M{start} {y}h{end - start}v1h{start - end}z" for start, end in edges.reshape(-1, 2).tolist()]
    return pieces


def _address(pixels_3HW: np.ndarray) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pixels_3HW.transpose(1, 2, 0)))
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
