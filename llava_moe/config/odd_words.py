"""Words that no setting can be made of, as they were typed: told in a sentence, before Hydra's grammar reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_moe.config.config_folder import config_folder, shipped_folders
from llava_moe.config.free_text import FREE_TEXT
from llava_moe.config.limits import LONGEST_NAME, LONGEST_PATH
from llava_moe.config.nearest_key import suggest
from llava_moe.errors import UserError
from llava_moe.text.did_you_mean import did_you_mean

MOST_WORDS = 1_000
LONGEST_WORD = 10_000
LONGEST_TEXT = 100_000
DEEPEST = 50
"""Brackets inside brackets: the grammar takes a second for a hundred, and longer than anyone waits for thousands."""

YAML = (".yaml", ".yml")
RECORDS = (".json", ".jsonl", ".gz", ".parquet", ".tsv", ".csv")
INSTEAD = {
    "data": "for records of your own: path={word}",
    "model": "for a checkpoint: model.path={word}",
    "adapter": "to start from a run's adapter: init_from=RUN",
}
# What a bare word that lies on the disk was meant to be.
BARE = {"train": "path=", "eval": "run=", "chat": "run=", "export": "run="}


def refuse_odd_words(command: str, words: Sequence[str], own_folders: Sequence[Path]) -> None:
    """Refuse words that are too long or too deep, that say no ``key=value``, or that give a path where a name stands.

    Args:
        own_folders: the folders of ``--config-dir``.

    Raises:
        UserError: naming the first, with what was probably meant.
    """
    if len(words) > MOST_WORDS:
        raise UserError(
            f"{len(words):,} words are more than the {MOST_WORDS:,} that are read: put settings into a yaml"
        )
    groups = {path.name for path in config_folder().iterdir() if path.is_dir()}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.lstrip("+")
        _refuse_size(key, word)
        if key.startswith("~"):
            continue
        if not equals:
            raise UserError(f"cannot read {word}: words are key=value{_meant(command, word, groups)}")
        if not key:
            raise UserError(f"cannot read {word}: a key is missing before =")
        if key in groups:
            _refuse_path(key, value, own_folders)


def refuse_sizes(words: Sequence[str]) -> None:
    """Refuse words that are too long or too deep for the grammar.

    Raises:
        UserError: naming the first.
    """
    for word in words:
        _refuse_size(word.partition("=")[0].lstrip("+~"), word)


def _refuse_size(key: str, word: str) -> None:
    is_text = key in FREE_TEXT
    if len(word) > (LONGEST_TEXT if is_text else LONGEST_WORD):
        raise UserError(f"{key[:100]}= has {len(word):,} characters, more than any setting takes: put it into a file")
    depth = deepest = 0
    for letter in word if not is_text else "":
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise UserError(f"{key[:100]}= has {deepest:,} brackets inside one another, more than any setting takes")


def _meant(command: str, word: str, groups: set[str]) -> str:
    for group in ("exp", *sorted(groups)):
        if _is_choice(group, word, shipped_folders()):
            return f" (did you mean {group}={word}?)"
    if command in BARE and len(word) <= LONGEST_NAME and Path(word).exists():
        return f" (did you mean {BARE[command]}{word}?)"
    known = [path.stem for path in (config_folder() / "exp").glob("*.yaml")]
    return suggest(word, known).replace("mean ", "mean exp=") or ", such as seed=1"


def _refuse_path(group: str, value: str, own_folders: Sequence[Path]) -> None:
    if group == "data" and value.startswith("'"):
        return  # the command line has quoted the path of a file that is there
    if group == "data" and value.endswith(YAML):
        _find_mixtures(value.split(","))  # several are a sweep's
        return
    is_path = "/" in value or value.endswith((*YAML, *RECORDS))
    if not is_path and not value.startswith(("[", "{", "$")) and value != "null":
        return
    if is_path and ".." not in value and _is_choice(group, value, [*shipped_folders(), *own_folders]):
        return
    told = f"{group}={value}: a name stands there, of a file {group}/NAME.yaml"
    if not is_path:
        raise UserError(f"{told}; llava-moe ls {group} lists them")
    if group in INSTEAD and not value.endswith(YAML):
        raise UserError(f"{told}; {INSTEAD[group].format(word=value)}")
    name = Path(value).name.partition(".")[0] or "NAME"
    raise UserError(f"{told}; put your own into FOLDER/{group}/ and add --config-dir FOLDER {group}={name}")


def _find_mixtures(places: Sequence[str]) -> None:
    """Refuse files of sources that are not there."""
    for place in places:
        if place.endswith(YAML) and not (len(place) < LONGEST_PATH and Path(place).is_file()):
            folder = Path(place).parent
            meant = did_you_mean(
                place, [str(one) for end in YAML for one in folder.glob(f"*{end}")], shown="data={}".format
            )
            raise UserError(
                f"data={place}: no such file{meant}; llava-moe init {Path(place).name} NAME=DATA ... writes one"
            )


def _is_choice(group: str, name: str, folders: Sequence[Path]) -> bool:
    if len(name) > LONGEST_NAME - len(".yaml") or "\0" in name:
        return False
    return any((folder / group / f"{name}.yaml").is_file() for folder in folders)
