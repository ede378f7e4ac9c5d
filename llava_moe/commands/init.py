"""``llava-moe init``: a yaml for files of one's own, with what was found out of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llava_moe.commands.init_guess import Guess, guess_source
from llava_moe.commands.init_yaml import yaml_of
from llava_moe.data.held_out import image_groups, lies_below
from llava_moe.errors import UserError
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.text.shell_words import named, shell

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Of images held out: the first that gives ``WANTED`` of them to each domain; where none does up to ``USUAL``, that
one, and more only where a domain would have none."""
WANTED, USUAL = 20, 0.2
MOST_BAD = 0.01
"""The share of bad records above which a training stops, ``data.max_bad_share`` where nobody says another."""


def init(file: Path, places: Mapping[str, str], images: Mapping[str, str]) -> int:
    """Look into each file, write the yaml, and say what was found and what to type next.

    Args:
        file: the yaml, which is not there yet.
        places: domain -> file, folder, pattern or address, from the current folder.
        images: domain -> folder of its images, of those that the user names.

    Raises:
        UserError: a file that cannot be read or used, or the yaml cannot be written.
    """
    console, progress = open_console(), open_progress()
    guesses = []
    for domain, path in places.items():
        with progress.status(f"  reading {domain}: {path}"):
            guesses.append(guess_source(domain, path, images.get(domain)))
    has_val = all("val" in guess.splits and guess.source.split is None for guess in guesses)
    held_out = 0.0 if has_val else share_to_hold_out(guesses)
    _write(file, yaml_of(file, guesses, held_out))
    for guess in guesses:
        for line in told_of(guess):
            console.print(line, soft_wrap=True)
    total = sum(guess.num_records for guess in guesses)
    kept = f", {held_out:.0%} of them held out of training, by image" if held_out else ""
    sources = "1 source" if len(guesses) == 1 else f"{len(guesses)} sources"
    console.print(f"\nwritten: {file}, {sources} of {total:,} records{kept}", soft_wrap=True)
    say_next(console, _next_commands(file, guesses, held_out, has_val))
    return 0


def share_to_hold_out(guesses: Sequence[Guess]) -> float:
    """The share of images that leaves each domain something to be measured on, and each source something to learn.

    0 where no share does.
    """
    groups = image_groups([guess.shown for guess in guesses])
    fewest: dict[float, int] = {}
    for share in SHARES:
        held = [lies_below(group, share) for group in groups]
        if any(one.all() for one in held):
            break
        # Of a large source only some records were looked at, which stand for the others.
        if least := min(len(np.unique(group[one])) for group, one in zip(groups, held, strict=True)):
            fewest[share] = least
    enough = [share for share, least in fewest.items() if least >= WANTED and share <= USUAL]
    usual = [share for share in fewest if share <= USUAL]
    return enough[0] if enough else max(usual) if usual else min(fewest, default=0.0)


def told_of(guess: Guess) -> list[str]:
    """What was found out of one source, in a line, and what is worth a line of its own."""
    source, records = guess.source, f"{guess.num_records:,} records"
    format_ = "prepared by llava-moe" if source.format == "auto" else source.format
    if not guess.is_told:
        format_ += " (guessed: it reads these records)"
    lines = [f"{source.name}: {format_}, {records}; {_told_of_images(guess)}"]
    if guess.splits and (source.split is not None or len(guess.splits) > 1):
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(guess.splits.items()))
        read = source.split or "train"
        lines.append(f"  splits: {counts}; {'every one' if read == 'all' else read} is read")
    if guess.num_bad:
        of = f"{guess.num_bad:,} of {guess.num_looked:,} records"
        lines.append(f"  {of} cannot be used ({guess.fault}): data check names each and leaves them out")
    if guess.root is not None and guess.root.num_found < guess.root.num_sought:
        lines.append(f"  not there: {guess.root.missing}")
    return lines


def _told_of_images(guess: Guess) -> str:
    if not guess.num_with_images:
        return "text alone, no images"
    if guess.root is None:
        return "images inside the file"
    root = guess.root
    place = "by paths from the root of the disk" if root.folder is None else f"in {root.folder}"
    if root.folder is not None and Path(root.folder) == Path(guess.source.path).parent:
        place = "beside the file"
    share = root.num_found / root.num_sought
    return f"images {place}, {root.num_found:,} of {root.num_sought:,} looked for are there ({share:.0%})"


def _next_commands(file: Path, guesses: Sequence[Guess], held_out: float, has_val: bool) -> list[str]:
    data = named("data", file)
    check = f"llava-moe data check {data}"
    if any(_is_faulty(guess) for guess in guesses):
        return [f"{check}   # names what is bad, and ends with the command that trains without it"]
    measured = ["eval.split=val", "eval.every=100"] if has_val else ["eval.every=100"] if held_out else []
    why = "   # with its loss on what is held out" if measured else ""
    return [check, f"llava-moe train {data} {shell('adapter=llava_mole', *measured)}{why}"]


def _is_faulty(guess: Guess) -> bool:
    """Whether a training on it would stop, or lose records on its way."""
    is_missing = guess.root is not None and guess.root.num_found < guess.root.num_sought
    return is_missing or guess.num_bad > MOST_BAD * guess.num_looked


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError as error:
        raise UserError(f"{file} is there already: choose another name, or move it away") from error
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): choose another place") from error
