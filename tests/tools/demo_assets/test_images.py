"""The embedded demo's images as they ship: schema, sizes, splits, balance and licences of the Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

FOLDER = Path(__file__).parents[3] / "llava_moe" / "demo" / "images"
DOMAINS = ("general", "documents", "medical")
SPLITS = ("train", "val", "test")
PERMISSIVE = re.compile(
    r"(MIT|Expat|BSD-3-Clause|CC0-1\.0|public domain( \(.+\))?|CC-BY[- ][\d.]+ \(.+\)|ICBM permissive)"
)
SCHEMA = {
    "id": pyarrow.string(),
    "images": pyarrow.list_(pyarrow.binary()),
    "conversations": pyarrow.list_(pyarrow.struct({"role": pyarrow.string(), "text": pyarrow.string()})),
    "caption": pyarrow.string(),
    "kinds": pyarrow.list_(pyarrow.string()),
    "closed": pyarrow.list_(pyarrow.bool_()),
    "source": pyarrow.string(),
    "domain": pyarrow.string(),
    "task": pyarrow.string(),
    "split": pyarrow.string(),
    "licence": pyarrow.string(),
}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [row for domain in DOMAINS for row in pyarrow.parquet.read_table(FOLDER / f"{domain}.parquet").to_pylist()]


def _pairs(row: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """(question, answer, kind, closed) of a row."""
    texts = [turn["text"] for turn in row["conversations"]]
    return list(zip(texts[::2], texts[1::2], row["kinds"], row["closed"], strict=True))


def _closed_answers(rows: list[dict[str, Any]], split: str) -> dict[tuple[str, str], Counter[str]]:
    """(domain, question) -> how often each answer of a closed question is right in the split."""
    answers: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row["split"] == split:
            for question, answer, _, closed in _pairs(row):
                if closed:
                    answers[row["domain"], question][answer] += 1
    return answers


def test_every_file_has_the_declared_columns() -> None:
    for domain in DOMAINS:
        schema = pyarrow.parquet.read_schema(FOLDER / f"{domain}.parquet")
        assert {name: schema.field(name).type for name in schema.names} == SCHEMA


def test_there_are_three_thousand_images_in_three_domains_of_three_splits(rows: list[dict[str, Any]]) -> None:
    counts = Counter((row["domain"], row["split"]) for row in rows)
    assert len(rows) >= 3000
    assert set(counts) == {(domain, split) for domain in DOMAINS for split in SPLITS}
    assert all(sum(counts[domain, split] for split in SPLITS) >= 1100 for domain in DOMAINS)
    assert all(counts[domain, "test"] >= 300 for domain in DOMAINS)
    assert len({row["id"] for row in rows}) == len(rows)


def test_the_files_stay_within_thirty_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 30_000_000


def test_every_image_decodes_and_is_small(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        (content,) = row["images"]
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert max(image.size) <= 160, row["id"]
            assert min(image.size) >= 28, row["id"]
            assert image.format in ("JPEG", "PNG", "WEBP"), row["id"]


def test_no_image_stands_twice(rows: list[dict[str, Any]]) -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        places[hashlib.sha256(row["images"][0]).hexdigest()].add(row["id"])
    assert [ids for ids in places.values() if len(ids) > 1] == []


def test_no_picture_of_one_split_looks_like_one_of_another(rows: list[dict[str, Any]]) -> None:
    """Equal 12 x 12 thumbnails of 16 levels a channel: another look than the builder's own."""
    seen: dict[bytes, set[str]] = defaultdict(set)
    for row in rows:
        thumbnail = Image.open(io.BytesIO(row["images"][0])).convert("RGB").resize((12, 12), Image.Resampling.BICUBIC)
        seen[bytes(value // 16 for value in thumbnail.tobytes())].add(row["split"])
    assert sum(len(splits) > 1 for splits in seen.values()) == 0


def test_turns_alternate_and_every_pair_has_its_kind(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        roles = [turn["role"] for turn in row["conversations"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2), row["id"]
        assert 1 <= len(roles) // 2 <= 7, row["id"]
        assert len(row["kinds"]) == len(row["closed"]) == len(roles) // 2, row["id"]
        for question, answer, kind, _ in _pairs(row):
            assert question.endswith("?") and kind, row["id"]
            assert answer.strip() == answer and answer and not answer.endswith("."), row["id"]
        assert row["caption"].endswith(".") and "A axial" not in row["caption"], row["id"]
        questions = [question for question, *_ in _pairs(row)]
        assert len(set(questions)) == len(questions), row["id"]


def test_every_closed_test_question_has_two_answers_that_train_knows(rows: list[dict[str, Any]]) -> None:
    trained = _closed_answers(rows, "train")
    for question, answers in _closed_answers(rows, "test").items():
        assert len(answers) >= 2, question
        assert set(answers) <= set(trained[question]), question
        assert sum(answers.values()) >= 6, question


def test_no_closed_question_of_any_split_is_settled_by_its_majority(rows: list[dict[str, Any]]) -> None:
    for split in SPLITS:
        for question, answers in _closed_answers(rows, split).items():
            total, largest = sum(answers.values()), max(answers.values())
            # One answer above the even share is what thinning to whole answers leaves of a small question.
            assert largest <= 0.53 * total + 1, (split, question, answers)


def test_yes_and_no_are_balanced(rows: list[dict[str, Any]]) -> None:
    for split in SPLITS:
        for question, answers in _closed_answers(rows, split).items():
            if set(answers) <= {"Yes", "No"}:
                assert abs(answers["Yes"] - answers["No"]) <= 0.06 * sum(answers.values()) + 1, (
                    split,
                    question,
                    answers,
                )


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_domain_has_many_closed_test_questions_of_many_kinds(rows: list[dict[str, Any]], domain: str) -> None:
    kinds = Counter(
        kind
        for row in rows
        if row["domain"] == domain and row["split"] == "test"
        for _, _, kind, closed in _pairs(row)
        if closed
    )
    which_part = sum(kinds[kind] for kind in ("picture kind", "figure type", "modality"))
    assert sum(kinds.values()) >= 400
    assert len(kinds) >= 12
    assert which_part <= 0.3 * sum(kinds.values())


def test_open_pairs_are_at_most_a_tenth_of_training(rows: list[dict[str, Any]]) -> None:
    closed = [closed for row in rows if row["split"] == "train" for *_, closed in _pairs(row)]
    assert 0 < closed.count(False) <= 0.1 * len(closed)


def test_an_open_question_never_shares_its_text_with_a_closed_one(rows: list[dict[str, Any]]) -> None:
    shape: dict[str, set[tuple[str, bool]]] = defaultdict(set)
    for row in rows:
        for question, _, kind, closed in _pairs(row):
            shape[question].add((kind, closed))
    assert all(len(found) == 1 for found in shape.values())


def test_every_licence_is_permissive_and_has_its_text(rows: list[dict[str, Any]]) -> None:
    assert all(PERMISSIVE.fullmatch(row["licence"]) for row in rows), {row["licence"] for row in rows}
    texts = {path.stem: path.read_text() for path in (FOLDER / "LICENSES").iterdir()}
    assert all(len(text) > 200 for text in texts.values())
    packages = {entry["package"].rpartition("/")[2] for entry in json.loads((FOLDER / "SOURCES.json").read_text())}
    named_otherwise = {
        "fluent-emoji-3d": "fluent-emoji",
        "emojibase-data": "emojibase",
        "dataset-fashion-mnist": "fashion-mnist",
        "iso-flags-png-320x240": "iso-flags",
        "mricron-data": "mricron",
        "gcompris-qt-data": "public-domain",
    }
    assert {named_otherwise.get(package, package) for package in packages} <= set(texts)


def test_sources_pin_every_package_and_count_every_image(rows: list[dict[str, Any]]) -> None:
    entries = json.loads((FOLDER / "SOURCES.json").read_text())
    for entry in entries:
        assert (
            re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]) and entry["version"] and entry["licence"] and entry["taken"]
        )
    named: dict[str, int] = {}
    for entry in entries:
        named.update(entry["items"])
    assert named == dict(Counter(row["source"] for row in rows))


def test_the_card_tells_the_counts_that_ship(rows: list[dict[str, Any]]) -> None:
    card = (FOLDER / "README.md").read_text()
    assert f"{len(rows):,} real pictures" in card
    assert f"{sum(len(row['kinds']) for row in rows):,} true question-answer pairs" in card
    for domain in DOMAINS:
        counts = Counter(row["split"] for row in rows if row["domain"] == domain)
        assert f"| **{domain}** | all | " + " | ".join(str(counts[split]) for split in SPLITS) + " |" in card
