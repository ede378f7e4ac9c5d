"""The domains that conflict on purpose: their conventions are as declared, and nothing else sets them apart."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

import pytest

from llava_moe.data.readers.conflict import COLORS, KINDS, PICTURES, QUESTIONS_A_PICTURE
from llava_moe.data.readers.formats import FORMATS, row_of
from llava_moe.data.readers.row import Row
from llava_moe.errors import UserError

SPLITS = ("train", "val", "test")


@cache
def rows_of(kind: str, denied: float) -> tuple[Row, ...]:
    reader = FORMATS["conflict"]
    (file,) = reader.find(f"{kind},denied={denied}")
    return tuple(row_of(reader, record, number) for number, record in enumerate(reader.records(file)))


def asked_and_answered(row: Row) -> tuple[str, str]:
    """The color and the answer; the question holds the kind and nothing else that could tell domains apart."""
    question, answer = (turn["text"] for turn in row["turns"])
    kind, _, rest = question.removeprefix("<image>\n").partition(": ")
    assert kind.lower() in KINDS
    before, color, after = rest.partition(next(color for color in COLORS if color in rest))
    assert (before, after) == ("is ", " on the list?")
    return color, answer


@pytest.mark.parametrize("denied", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_source_denies_the_declared_share_of_the_colors_and_no_other(denied: float) -> None:
    answers = {asked_and_answered(row) for row in rows_of("radiology", denied)}
    assert answers == {(color, "No" if place < 4 * denied else "Yes") for place, color in enumerate(COLORS)}


def test_two_sources_disagree_on_the_difference_of_their_shares() -> None:
    for one, other in combinations([0.0, 0.25, 0.5, 1.0], 2):
        answers = [dict(map(asked_and_answered, rows_of("charts", denied))) for denied in (one, other)]
        assert sum(answers[0][color] != answers[1][color] for color in COLORS) / len(COLORS) == abs(one - other)


def test_kinds_splits_and_colors_have_equally_many_records_and_share_no_picture() -> None:
    pictures: Counter[bytes] = Counter()
    for kind in KINDS:
        rows = rows_of(kind, 0.0)
        assert {row["fault"] for row in rows} == {None} and len({row["id"] for row in rows}) == len(rows)
        for split in SPLITS:
            there = [row for row in rows if row["split"] == split]
            assert len(there) == QUESTIONS_A_PICTURE * PICTURES[split]
            counts = Counter(asked_and_answered(row)[0] for row in there)
            assert set(counts.values()) == {len(there) // len(COLORS)} and set(counts) == set(COLORS)
            pictures.update({row["images"][0]["bytes"] for row in there})
    assert set(pictures.values()) == {1}


def test_the_same_records_come_each_time() -> None:
    again = rows_of.__wrapped__("clothing", 0.5)
    assert again == rows_of("clothing", 0.5)


@pytest.mark.parametrize("path", ["radiology", "brains,denied=0.5", "radiology,denied=0.3", "charts,denied=2.0"])
def test_another_path_is_one_line(path: str) -> None:
    with pytest.raises(UserError, match="conflict"):
        FORMATS["conflict"].find(path)
