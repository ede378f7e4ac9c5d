"""What was found beside what was published, in words."""

from __future__ import annotations

import pytest

from llava_moe.datatools.prepare.manifest import _difference


@pytest.mark.parametrize(
    ("found", "expected", "share"),
    [
        (15, 665298, "665,283 (more than 99.99%) fewer"),
        (0, 40, "40 (100.00%) fewer"),
        (665297, 665298, "1 (less than 0.01%) fewer"),
        (80, 40, "40 (100.00%) more"),
        (30, 40, "10 (25.00%) fewer"),
    ],
)
def test_a_part_is_never_rounded_up_to_all_nor_down_to_none(found: int, expected: int, share: str) -> None:
    assert share in str(_difference(found, expected, "raw records", "were published"))
