"""The manifest of a preparation: what was read, what was written, and how that compares with what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from llava_moe.data.readers.shards import Manifest, Shard
from llava_moe.datatools.prepare.chunks import FileEnd
from llava_moe.datatools.prepare.counts import Counts
from llava_moe.datatools.prepare.preparation import Preparation, recipe_fingerprint
from llava_moe.datatools.prepare.shard_maker import Made
from llava_moe.datatools.prepare.staging import BEGUN
from llava_moe.errors import UserError


def manifest_of(
    preparation: Preparation, made: Mapping[int, Made], ends: Mapping[int, FileEnd], shards: tuple[Shard, ...]
) -> Manifest:
    """The manifest of finished chunks.

    Raises:
        UserError: there is no record, or none that could be read.
    """
    recipe, files = preparation.recipe, preparation.files
    raw = [
        {
            "file": file.name,
            "split": file.split,
            "bytes": file.num_bytes,
            "records": ends[number].num_records,
            "changed": file.changed,
        }
        for number, file in enumerate(files)
    ]
    if not shards:
        raise _nothing(preparation, made, sum(end.num_records for end in ends.values()))
    manifest = Manifest(
        recipe=recipe.name,
        images=preparation.images,
        shards=shards,
        counts={split: _split_account(preparation, split, made, ends) for split in preparation.splits},
        raw=tuple(raw),
    )
    return Manifest(**{**vars(manifest), "about": _about(preparation, manifest)})


def _about(preparation: Preparation, manifest: Manifest) -> dict[str, Any]:
    recipe, tokenizer = preparation.recipe, preparation.choices.tokenizer
    return {
        "title": recipe.title,
        "source": recipe.source,
        "licence": recipe.licence,
        "domain": recipe.domain,
        "notes": list(recipe.notes),
        "recipe_fingerprint": recipe_fingerprint(recipe),
        "tokenizer": None if tokenizer is None else {"name": tokenizer.name, "fingerprint": tokenizer.fingerprint},
        "fingerprint": manifest.fingerprint,
        BEGUN: preparation.facts(),
    }


def _split_account(
    preparation: Preparation, split: str, made: Mapping[int, Made], ends: Mapping[int, FileEnd]
) -> dict[str, Any]:
    counts = Counts(tokens=None)
    for number in sorted(made):
        if made[number].split == split:
            counts.merge(made[number].counts)
    raw = sum(ends[number].num_records for number, file in enumerate(preparation.files) if file.split == split)
    draw = preparation.recipe.draw
    found = raw - counts.other_split
    taken = counts.records + counts.rejected.total()
    expected = preparation.recipe.expected(split)
    return {
        "raw_records": found,
        "expected": expected,
        "difference": _difference(found, expected, "raw records", "were published"),
        "drawn": None if draw is None else taken,
        "draw_difference": None if draw is None else _difference(taken, draw.expected, "records drawn", "are known"),
        **counts.as_dict(),
    }


def _difference(found: int, expected: int | None, what: str, known: str) -> str | None:
    if expected is None or found == expected:
        return None
    share = f"{abs(found - expected):,} ({_percent(abs(found - expected) / expected, is_part=0 < found < expected)})"
    if found < expected:
        why = "the download is not whole, or its publisher took some out"
    else:
        why = "files of another version lie beside it, or its publisher added some"
    return f"{found:,} {what}, {expected:,} {known}: {share} {'fewer' if found < expected else 'more'}; {why}"


def _percent(share: float, is_part: bool) -> str:
    """A share in percent; a part is never rounded up to all, nor any difference down to none."""
    if is_part and share > 0.9999:
        return "more than 99.99%"
    return "less than 0.01%" if share < 0.0001 else f"{share:.2%}"


def _nothing(preparation: Preparation, made: Mapping[int, Made], num_raw: int) -> UserError:
    recipe, files = preparation.recipe, preparation.files
    where = f"{files[0].name}{f' and {len(files) - 1} more' if len(files) > 1 else ''} in {preparation.base}"
    if not num_raw:
        return UserError(f"recipe {recipe.name}: {where}: there are no records; fetch them again: {recipe.get[0]}")
    reasons: Counter[str] = Counter()
    for one in made.values():
        reasons.update(one.counts.rejected)
    told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common(3)) or "all of another split"
    return UserError(
        f"recipe {recipe.name}: {where}: none of {num_raw:,} records can be used ({told}); check that they are of "
        f"format {recipe.format}, then add restart=true"
    )
