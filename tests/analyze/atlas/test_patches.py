"""The overlay of a picture's patches: every patch once, under its expert's colour."""

from __future__ import annotations

import re

import numpy as np

from llava_moe.analyze.atlas.counts import RecordRouting
from llava_moe.analyze.atlas.patches import expert_color, patch_map
from llava_moe.data.encode import Example
from llava_moe.pages.domain_colors import PALETTE

SIDE = 3
KINDS_T = np.array([1, *[0] * 9, 1, 2], dtype=np.int8)


def record(experts: list[int], kinds_T: np.ndarray = KINDS_T) -> tuple[Example, RecordRouting]:
    ids = np.zeros(len(kinds_T), dtype=np.int64)
    example = Example(ids, ids, np.zeros((1, 3, 6, 6), dtype=np.uint8), 0, "key")
    chosen_UT = np.full((2, len(kinds_T)), 7, dtype=np.int16)
    chosen_UT[1, 1:10] = experts
    return example, RecordRouting(np.zeros((2, 3, 8)), np.zeros((2, 3)), kinds_T, None, chosen_UT)


def painted(path: str) -> set[tuple[int, int]]:
    """(row, column) of the squares that a path covers."""
    runs = re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", path)
    assert all(out == back for _, _, out, back in runs)
    return {(int(y), int(x) + step) for x, y, width, _ in runs for step in range(int(width))}


def test_every_patch_is_painted_once_in_reading_order() -> None:
    experts = [0, 0, 1, 1, 1, 1, 2, 0, 2]
    drawn = patch_map(*record(experts), "papers", {"late": 1}, SIDE * SIDE)
    assert drawn is not None and drawn.side == SIDE and drawn.picture.startswith("data:image/webp;base64,")
    squares = {expert: painted(path) for expert, path, _ in drawn.paths["late"]}
    assert {place: expert for expert, places in squares.items() for place in places} == {
        (at // SIDE, at % SIDE): expert for at, expert in enumerate(experts)
    }
    assert [(expert, round(share, 3)) for expert, _, share in drawn.paths["late"]] == [
        (1, 0.444),
        (0, 0.333),
        (2, 0.222),
    ]


def test_no_overlay_where_there_is_no_square_of_patches_or_no_picture() -> None:
    assert patch_map(*record([0] * 9), "papers", {"late": 1}, 8) is None
    example, found = record([0] * 9)
    blind = Example(example.input_ids, example.labels, example.pixels[:0], 0, "key")
    assert patch_map(blind, found, "papers", {"late": 1}, 9) is None
    by_record = RecordRouting(found.served_UGK, found.doubt_UG, KINDS_T, np.zeros((2, 1, 8)), None)
    assert patch_map(example, by_record, "papers", {"late": 1}, 9) is None


def test_experts_have_colors_of_their_own() -> None:
    colors = [expert_color(expert) for expert in range(32)]
    assert len(set(colors)) == 32 and not set(colors) & set(PALETTE)
