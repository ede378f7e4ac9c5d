"""Which of the possible questions are kept, so that no question can be answered without its image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tools.demo_assets.images.item import Item, Pair
from tools.demo_assets.images.splits import fraction

MAX_PAIRS = 7
# A closed question asked of fewer test or val images is dropped: too few to compare answers.
MIN_ASKED = 6


def _largest_cap(counts: Counter[str]) -> int:
    """The most times one answer may be kept: its share stays within 1.5 / number of answers, or 30 % (52 % of two)."""
    answers = len(counts)
    limit = 0.52 if answers == 2 else max(1.5 / answers, 0.3)
    for cap in range(max(counts.values()), 0, -1):
        total = sum(min(count, cap) for count in counts.values())
        if cap <= limit * total + 0.5:
            return cap
    return 1


def balance(items: Sequence[Item]) -> list[Item]:
    """Thin out too frequent answers per question and split, drop questions with one answer, keep MAX_PAIRS per image.

    A closed answer of val or test that train does not have is dropped as well, and so are items left without a
    question.
    """
    trained: dict[str, set[str]] = defaultdict(set)
    for item in items:
        if item.split == "train":
            for pair in item.pairs:
                trained[pair.question].add(pair.answer)
    chosen: dict[str, list[Pair]] = defaultdict(list)
    for split in ("train", "val", "test"):
        wanted = [
            (item, pair)
            for item in items
            if item.split == split
            for pair in item.pairs
            if not pair.closed or pair.answer in trained[pair.question]
        ]
        for item, pair in _balanced(_few_per_item(wanted), 0 if split == "train" else MIN_ASKED):
            chosen[item.id].append(pair)
    return [replace(item, pairs=tuple(chosen[item.id])) for item in items if chosen[item.id]]


def _few_per_item(wanted: list[tuple[Item, Pair]]) -> list[tuple[Item, Pair]]:
    by_item: dict[str, list[tuple[Item, Pair]]] = defaultdict(list)
    for item, pair in wanted:
        by_item[item.id].append((item, pair))
    kept = []
    for name, pairs in by_item.items():
        rank = sorted(range(len(pairs)), key=lambda place: fraction("few", name, pairs[place][1].question))[:MAX_PAIRS]
        kept += [pairs[place] for place in sorted(rank)]
    return kept


def _balanced(wanted: list[tuple[Item, Pair]], least: int) -> list[tuple[Item, Pair]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _, pair in wanted:
        counts[pair.question][pair.answer] += 1
    place_of: dict[tuple[str, str], list[str]] = {}
    for item, pair in sorted(wanted, key=lambda entry: fraction("balance", entry[0].id, entry[1].question)):
        seen = place_of.setdefault((pair.question, pair.answer), [])
        seen.append(item.id)
    caps = {question: _largest_cap(answers) for question, answers in counts.items()}
    sizes = {
        question: sum(min(count, caps[question]) for count in answers.values()) for question, answers in counts.items()
    }
    kept_ids = {key: set(ids[: caps[key[0]]]) for key, ids in place_of.items()}
    return [
        (item, pair)
        for item, pair in wanted
        if not pair.closed
        or (
            len(counts[pair.question]) > 1
            and sizes[pair.question] >= least
            and item.id in kept_ids[pair.question, pair.answer]
        )
    ]
