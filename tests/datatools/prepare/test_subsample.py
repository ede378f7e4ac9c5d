"""A draw takes as many of each task as it may, each record as likely as another, and the same ones every time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.datatools.prepare.subsample import Draw

TASKS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=60)


def records_of(tasks: list[str]) -> list[dict[str, object]]:
    return [{"task_name": task, "number": number} for number, task in enumerate(tasks)]


def drawn(draw: Draw, records: list[dict[str, object]]) -> list[int]:
    drawing = draw.start(draw.count(records))
    return [number for number, record in enumerate(records) if drawing.keep(record)]


@settings(max_examples=60, deadline=None)
@given(tasks=TASKS, most=st.integers(1, 20), seed=st.integers(0, 1000))
def test_each_task_gives_its_cap_or_all_it_has(tasks: list[str], most: int, seed: int) -> None:
    draw = Draw("task_name", most, ("d",), seed)
    records = records_of(tasks)
    taken = drawn(draw, records)
    assert Counter(tasks[number] for number in taken) == {
        task: min(count, most) for task, count in Counter(tasks).items() if task != "d"
    }
    assert taken == drawn(draw, records)


@settings(max_examples=30, deadline=None)
@given(tasks=TASKS, seed=st.integers(0, 1000))
def test_what_a_task_gives_does_not_depend_on_the_others(tasks: list[str], seed: int) -> None:
    draw, records = Draw("task_name", 3, (), seed), records_of(tasks)
    of_a = [record for record in records if record["task_name"] == "a"]
    alone = [of_a[number]["number"] for number in drawn(draw, of_a)]
    assert alone == [number for number in drawn(draw, records) if tasks[number] == "a"]


def test_every_record_is_as_likely_as_another() -> None:
    records, hits = records_of(["a"] * 12), Counter[int]()
    for seed in range(3000):
        hits.update(drawn(Draw("task_name", 4, (), seed), records))
    # 3000 draws at a third each: a standard deviation is 26.
    assert all(abs(hits[number] - 1000) < 130 for number in range(12))


def test_seeds_differ_and_no_cap_takes_all() -> None:
    records = records_of(["a"] * 50)
    assert drawn(Draw("task_name", 10, (), 0), records) != drawn(Draw("task_name", 10, (), 1), records)
    assert drawn(Draw("task_name", None, (), 0), records) == list(range(50))


def test_records_without_a_task_are_one_task_of_their_own() -> None:
    records = [{"id": 1}, "text", {"task_name": None}, {"task_name": "a"}]
    draw = Draw("task_name", 1)
    counts = draw.count(records)
    assert counts == {"": 3, "a": 1}
    drawing = draw.start(counts)
    assert sum(drawing.keep(record) for record in records) == 2


def test_more_records_than_were_counted_are_refused() -> None:
    drawing = Draw("task_name", 1).start({"a": 1})
    assert drawing.keep({"task_name": "a"})
    for task in ("a", "b"):
        with pytest.raises(ValueError, match=f"more records of task '{task}'"):
            drawing.keep({"task_name": task})
    with pytest.raises(ValueError, match="max_per_task must be positive, got 0"):
        Draw("task_name", 0)


def test_a_draw_over_many_tasks_takes_exactly_its_cap_of_each() -> None:
    draw, generator = Draw("task_name", 1000), random.Random(0)
    tasks = [f"t{generator.randrange(187)}" for _ in range(200_000)]
    drawing = draw.start(Counter(tasks))
    taken = Counter(task for task in tasks if drawing.keep({"task_name": task}))
    assert taken == {task: min(1000, count) for task, count in Counter(tasks).items()} and len(taken) == 187
