"""A cell's card: what made its numbers. ``<name>.json`` beside the run's folder, from its beginning to its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.our_files import NUMBER, read_object
from llava_moe.grid.cell import Cell, Grid, Words
from llava_moe.train.folder import ENVIRONMENT, FINISHED

_REMEDY = "delete it and the cell's folder, and run again"
_CARD = {
    **{"cell": str, "settings": str, "reads": str, "command": [str], "measured": [[str]], "is_finished": bool},
    "seconds": NUMBER,
    **{"num_bytes?": int, "commit?": (str, type(None)), "base?": str, "data?": {str: str}, "steps?": int},
}
_ENVIRONMENT = {"base_model?": str, "data?": {str: str}, "commit?": (str, type(None))}


@dataclass(frozen=True)
class Card:
    """What is known of a cell.

    Attributes:
        settings: of :attr:`~llava_moe.grid.cell.Grid.settings`; ``reads``: of the cell.
        command: what makes it, with its places.
        measured: the commands that looked at it and whose files are there, without places.
        is_finished: whether the run has come to its end.
        seconds: of the command that makes it, over all starts.
        num_bytes: of its folder.
        commit, base, data: of the run's environment: the code, the base model, each source.
        steps: optimizer steps.
    """

    cell: str
    settings: str
    reads: str
    command: Words
    measured: tuple[Words, ...] = ()
    is_finished: bool = False
    seconds: float = 0.0
    num_bytes: int = 0
    commit: str | None = None
    base: str | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    steps: int = 0


def card_path(folder: Path, name: str) -> Path:
    """The card of a cell whose run lies in ``folder``."""
    return folder / f"{name}.json"


def read_card(folder: Path, name: str) -> Card | None:
    """The card of a cell; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = card_path(folder, name)
    if not path.exists():
        return None
    told = read_object(path, _REMEDY, _CARD)
    known = {key: told[key] for key in Card.__dataclass_fields__ if key in told}
    return Card(**known | {"command": tuple(told["command"]), "measured": tuple(map(tuple, told["measured"]))})


def write_card(folder: Path, card: Card) -> None:
    """Write a card whole.

    Raises:
        UserError: the folder cannot be written.
    """
    told = {key: value for key, value in vars(card).items() if value is not None}
    write_atomically(card_path(folder, card.cell), json.dumps(told, indent=1) + "\n")


def is_made(folder: Path, card: Card) -> bool:
    """Whether a cell's run is there: its card says so, and its folder was not deleted."""
    return card.is_finished and (folder / card.cell / FINISHED).is_file()


def left_to_measure(cell: Cell, card: Card) -> tuple[Words, ...]:
    """The commands yet to look at a run: from the first whose files are not there on, for later ones read them."""
    missing = [place for place, words in enumerate(cell.measured) if words not in card.measured]
    return cell.measured[missing[0] :] if missing else ()


def with_measured(card: Card, words: Words) -> Card:
    """The card once a command has looked at the run; it wrote over what the same command wrote with other words."""
    others = tuple(one for one in card.measured if _instrument(one) != _instrument(words))
    return replace(card, measured=(*others, words))


def _instrument(words: Words) -> Words:
    """What a command's files are told from others by: those of an earlier checkpoint lie in a folder of their own."""
    checkpoint = [word for word in words if word.startswith("checkpoint=") and word != "checkpoint=last"]
    return (*words[: 2 if words[0] == "analyze" else 1], *checkpoint)


def refuse_edited(grid: Grid, folder: Path) -> None:
    """Refuse a grid of which a run that is there was made by other words.

    Raises:
        UserError: naming the cell and the first words that differ.
    """
    for cell in grid.cells:
        card = read_card(folder, cell.name)
        if card is None or card.settings == grid.settings[cell.name] or not (folder / cell.name).exists():
            continue
        told = _first_difference(card.command, cell.making(folder))
        raise UserError(
            f"{folder / cell.name} was made by other words than {grid.name} has now: {told}; delete that folder to "
            "make it again, or give the grid another folder with out="
        )


def _first_difference(before: Words, now: Words) -> str:
    # The folder may have been moved or be named otherwise from here.
    gone = [word for word in before if word not in now and not _is_place(word)]
    added = [word for word in now if word not in before and not _is_place(word)]
    if not gone and not added:
        return "what it starts from was made by other words"
    return f"{' '.join(gone) or 'nothing'} there, {' '.join(added) or 'nothing'} asked"


def _is_place(word: str) -> bool:
    return word.startswith(("out=", "run=", "init_from=", "experts="))


def finished_card(card: Card, cell: Cell, folder: Path, seconds: float) -> Card:
    """The card of a run that has come to its end.

    Raises:
        UserError: a file of the run is damaged.
    """
    run = folder / cell.name
    environment = read_object(run / ENVIRONMENT, _REMEDY, _ENVIRONMENT)
    log = run / "log.jsonl"
    return replace(
        card,
        is_finished=True,
        seconds=round(seconds, 1),
        num_bytes=sum(path.stat().st_size for path in run.rglob("*") if path.is_file()),
        commit=environment.get("commit"),
        base=environment.get("base_model"),
        data=environment.get("data", {}),
        steps=log.read_bytes().count(b"\n") if log.is_file() else 0,
    )


def refuse_unlike(cards: Iterable[Card]) -> None:
    """Refuse cells that cannot be set beside each other: of another base, or of other content of one source.

    Raises:
        UserError: naming two of them.
    """
    base: Card | None = None
    sources: dict[tuple[str, str], Card] = {}
    for card in cards:
        if card.base is not None:
            base = base or card
            if card.base != base.base:
                raise UserError(
                    f"{card.cell} stands on the base {card.base}, {base.cell} on {base.base}: cells of several bases "
                    "are not compared; delete those of one base, or give the grid another folder with out="
                )
        for source, content in card.data.items():
            first = sources.setdefault((card.reads, source), card)
            if first.data[source] != content:
                raise UserError(
                    f"{card.cell} read other data than {first.cell} ({source}: {content} and {first.data[source]}): "
                    "cells of unlike data are not compared; delete those of one, or give the grid another folder with "
                    "out="
                )
