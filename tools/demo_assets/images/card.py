"""The data card that lies beside the product."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from tools.demo_assets.images.item import DOMAINS, SPLITS, Item

INTRODUCTION = Path(__file__).with_name("card_introduction.md")


def write_card(items: Sequence[Item], num_bytes: int, dropped: tuple[int, int], near_limit: float, path: Path) -> None:
    """Write the card with its counts; `dropped` is (identical, near)."""
    text = INTRODUCTION.read_text().format(
        num_images=len(items),
        num_pairs=sum(len(item.pairs) for item in items),
        megabytes=num_bytes / 1e6,
        identical=dropped[0],
        near=dropped[1],
        near_limit=near_limit,
    )
    path.write_text(text + _image_table(items) + "\n" + _kind_tables(items))


def _image_table(items: Sequence[Item]) -> str:
    counts = Counter((item.domain, item.source, item.split) for item in items)
    lines = ["## Pictures", "", "| domain | source | train | val | test |", "|---|---|---|---|---|"]
    for domain in DOMAINS:
        for source in sorted({item.source for item in items if item.domain == domain}):
            lines.append(
                f"| {domain} | {source} | " + " | ".join(str(counts[domain, source, split]) for split in SPLITS) + " |"
            )
        total = [sum(item.domain == domain and item.split == split for item in items) for split in SPLITS]
        lines.append(f"| **{domain}** | all | " + " | ".join(str(number) for number in total) + " |")
    return "\n".join(lines) + "\n"


def _kind_tables(items: Sequence[Item]) -> str:
    lines = [
        "## Questions",
        "",
        "Majority is the share of the most frequent answer to the same question text in test, averaged over the kind.",
        "",
        "| domain | kind | closed | train | val | test | answers | majority |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for domain in DOMAINS:
        answers: dict[tuple[str, bool], dict[str, Counter]] = defaultdict(lambda: defaultdict(Counter))
        counts: Counter = Counter()
        for item in items:
            for pair in item.pairs if item.domain == domain else ():
                counts[pair.kind, pair.closed, item.split] += 1
                if item.split == "test":
                    answers[pair.kind, pair.closed][pair.question][pair.answer] += 1
        for kind, closed in sorted({key[:2] for key in counts}):
            texts = answers[kind, closed]
            number = len({answer for counter in texts.values() for answer in counter})
            asked = counts[kind, closed, "test"]
            majority = f"{sum(max(counter.values()) for counter in texts.values()) / asked:.0%}" if asked else "-"
            row = " | ".join(str(counts[kind, closed, split]) for split in SPLITS)
            lines.append(f"| {domain} | {kind} | {'yes' if closed else 'no'} | {row} | {number} | {majority} |")
    return "\n".join(lines) + "\n"
