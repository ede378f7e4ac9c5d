"""Questions in an order that a record's texts decide: nothing is lost, images stay in front, and it never moves."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from llava_moe.data.conversation import ASSISTANT, USER, Turn, record_key
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.turn_order import shuffle_turns

WORDS = st.text(alphabet="abcd <>é\n", min_size=1).filter(lambda text: text.strip() and "<image>" not in text)


def turns_of(pairs: list[tuple[str, str]], images: str = "<image>\n") -> tuple[Turn, ...]:
    turns = [Turn(role, text) for pair in pairs for role, text in zip((USER, ASSISTANT), pair, strict=True)]
    return (Turn(USER, images + turns[0].text), *turns[1:])


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.integers(0, 3), st.text())
def test_every_question_keeps_its_answer_and_the_images_stay_in_front(
    pairs: list[tuple[str, str]], num_images: int, record_id: str
) -> None:
    # What follows the images on the first line belongs to them.
    pairs = [(question.strip(), answer) for question, answer in pairs]
    images = "<image>\n" * num_images
    shuffled = shuffle_turns(record_id, turns_of(pairs, images))
    assert shuffled[0].text.startswith(images)
    texts = [shuffled[0].text.removeprefix(images), *(turn.text for turn in shuffled[1:])]
    assert Counter(zip(texts[::2], texts[1::2], strict=True)) == Counter(pairs)
    assert [turn.role for turn in shuffled] == [USER, ASSISTANT] * len(pairs)
    assert shuffle_turns(record_id, turns_of(pairs, images)) == shuffled


def test_each_question_opens_as_many_records_as_another() -> None:
    pairs = [(f"question {number}", f"answer {number}") for number in range(5)]
    first = Counter(shuffle_turns(str(record), turns_of(pairs))[0].text for record in range(5000))
    assert len(first) == 5
    # 1,000 each is expected, with a standard deviation of 28.
    assert max(abs(count - 1000) for count in first.values()) < 120


def test_an_answer_that_is_not_supervised_stays_with_its_question() -> None:
    turns = (Turn(USER, "a"), Turn(ASSISTANT, "A", False), Turn(USER, "b"), Turn(ASSISTANT, "B"))
    for record in map(str, range(20)):
        shuffled = shuffle_turns(record, turns)
        assert {
            (one.text, two.text, two.is_supervised) for one, two in zip(shuffled[::2], shuffled[1::2], strict=True)
        } == {
            ("a", "A", False),
            ("b", "B", True),
        }


@pytest.mark.parametrize(
    "turns",
    [
        turns_of([("a", "A"), ("<image>\nb", "B")]),
        turns_of([("a", "A"), ("b", "B"), ("and <image>?", "C")], ""),
        turns_of([("left <image>", "A"), ("b", "B")]),
    ],
)
def test_a_record_whose_images_do_not_all_open_it_keeps_its_order(turns: tuple[Turn, ...]) -> None:
    assert all(shuffle_turns(str(record), turns) == turns for record in range(20))


def test_a_source_shuffles_where_it_says_so_and_its_fingerprint_tells(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    said = [f"{letter}{number}" for number in range(6) for letter in "qa"]
    values = [
        {"from": ("human", "gpt")[place % 2], "value": "<image>\n" * (not place) + text}
        for place, text in enumerate(said)
    ]
    (tmp_path / "train.json").write_text(json.dumps([{"id": "1", "image": "0.png", "conversations": values}]))
    plain = Source("mine", "mine", str(tmp_path / "train.json"), images=str(tmp_path))
    shuffled = Source("mine", "mine", str(tmp_path / "train.json"), images=str(tmp_path), shuffle_turns=True)
    as_it_stands, drawn = (open_records(source, tmp_path / "cache") for source in (plain, shuffled))
    assert as_it_stands.fingerprint != drawn.fingerprint
    assert [turn.text for turn in as_it_stands[0].turns] == ["<image>\nq0", *said[1:]]
    assert drawn[0].turns != as_it_stands[0].turns and record_key(drawn[0]) != record_key(as_it_stands[0])
    assert sorted(turn.text.removeprefix("<image>\n") for turn in drawn[0].turns) == sorted(said)
    assert drawn.read(0, 1)[0].content == drawn[0]
