"""Recipes: what a published data set is, how to get it, and how its files become records.

A recipe is a page of Python, ``recipes/NAME.py``, that sets ``RECIPE``; the user's own is such a file by path.
"""

from __future__ import annotations

import runpy
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from llava_moe.datatools.prepare.subsample import Draw
from llava_moe.errors import UserError
from llava_moe.plugins import Plugin, plugins
from llava_moe.text.did_you_mean import did_you_mean

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Part:
    """Files of one split.

    Attributes:
        split: what the records are for: train, val or test. Of the files that the format's ``Reader.find`` gives,
            those of this split, or of none, are the part's.
        find: where they lie under the folder of the download: a file, a folder or a glob; "." for the folder itself.
        expected: how many raw records were published; None where nobody says.
        images: the folder that image paths start from, where it is another than the recipe's.
    """

    split: str
    find: str
    expected: int | None
    images: str | None = None

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {self.split!r}")
        if self.expected is not None and self.expected < 1:
            raise ValueError(f"expected must be positive, got {self.expected}")


@dataclass(frozen=True)
class Repair:
    """A known fault of the published data, with what to do about it.

    Attributes:
        name: a short name.
        pattern: which images: a shell pattern that the path as the record writes it has to match (``*`` takes in
            ``/``).
        reasons: the faults that it explains (``BadRecord`` reasons, or the names that ``data check`` gives).
        fault: what is wrong, a line.
        remedy: what to do, a line.
        expected: how many images or records it concerns as far as is known.
    """

    name: str
    pattern: str
    reasons: tuple[str, ...]
    fault: str
    remedy: str
    expected: int | None = None

    def explains(self, image: str, reason: str) -> bool:
        """Whether this is why the image of that path has that fault."""
        return reason in self.reasons and fnmatchcase(image, self.pattern)


@dataclass(frozen=True)
class Recipe:
    """A published data set.

    Attributes:
        name: the page's file name without its suffix.
        title: one line for ``ls``.
        source: the hub id or address that it is published under.
        licence: as its publisher states it, or that none is stated.
        get: shell lines that fetch it into the folder that they run in, to be given as ``path=``.
        domain: the domain that its records count under unless the user says otherwise.
        format: of its raw files, a key of ``data.readers.formats.FORMATS``.
        parts: its files.
        images: the folder under the download that image paths start from; None where images are in the records.
        address: where its raw files can be read without a download (``hf://datasets/...``); None where they cannot.
        repairs: known faults.
        draw: the records that are taken where that is not all.
        repeats_on_purpose: its files hold records several times to set a ratio: copies are no fault.
        notes: what a user has to know, a line each; assumptions are called so.
    """

    name: str
    title: str
    source: str
    licence: str
    get: tuple[str, ...]
    domain: str
    format: str
    parts: tuple[Part, ...]
    images: str | None = None
    address: str | None = None
    repairs: tuple[Repair, ...] = ()
    draw: Draw | None = None
    repeats_on_purpose: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("name", "title", "source", "licence", "get", "domain", "format", "parts"):
            if not getattr(self, field):
                raise ValueError(f"recipe {self.name!r}: {field} is empty")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are, each once, in the order of the parts."""
        return tuple(dict.fromkeys(part.split for part in self.parts))

    def expected(self, split: str) -> int | None:
        """Raw records published in a split (before any draw); None where one of its parts does not say."""
        counts = [part.expected for part in self.parts if part.split == split]
        known = [count for count in counts if count is not None]
        return sum(known) if known and len(known) == len(counts) else None

    def repair(self, image: str, reason: str) -> Repair | None:
        """The known fault that explains what was found at an image path; None where it is news."""
        return next((repair for repair in self.repairs if repair.explains(image, reason)), None)


def recipes_folder() -> Path:
    """Folder of the recipe pages that come with the package."""
    return Path(__file__).resolve().parents[2] / "recipes"


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, and of those of installed packages (``llava_moe.recipes``).

    Raises:
        UserError: one of these has the name of one of ours.
    """
    ours, others = {path.stem for path in recipes_folder().glob("*.py") if path.stem[0] != "_"}, plugins("recipes")
    for name in ours & others.keys():
        raise others[name].refused("has the name of one of llava-moe's own")
    return sorted({*ours, *others})


def load_recipe(name_or_file: str) -> Recipe:
    """The recipe of a name, or of the user's own page by its path (ending in ``.py``).

    Raises:
        UserError: no such recipe or file, a page that does not run, or one that sets no ``RECIPE``.
    """
    if name_or_file.endswith(".py"):
        path = Path(name_or_file).expanduser()
    else:
        names = recipe_names()
        if name_or_file not in names:
            meant = did_you_mean(name_or_file, names)
            known = ", ".join(names)
            raise UserError(f"recipe={name_or_file}: no such recipe{meant}; there are {known}, or your own .py page")
        if name_or_file in plugins("recipes"):
            return _load_plugin(plugins("recipes")[name_or_file])
        path = recipes_folder() / f"{name_or_file}.py"
    return _load_page(path)


def recipes_that_load() -> dict[str, Recipe | UserError]:
    """All recipes by name; of an installed package's that does not load, the error that says so.

    Raises:
        UserError: a package's recipe has the name of one of ours.
    """
    found: dict[str, Recipe | UserError] = {}
    for name in recipe_names():
        try:
            found[name] = load_recipe(name)
        except UserError as error:
            if name not in plugins("recipes"):
                raise
            found[name] = error
    return found


def _load_plugin(plugin: Plugin) -> Recipe:
    recipe = plugin.load()
    if not isinstance(recipe, Recipe):
        raise plugin.refused("is no Recipe(...)")
    if recipe.name != plugin.name:
        raise plugin.refused(f"calls itself {recipe.name!r}: its folder would be another's")
    return recipe


def _load_page(path: Path) -> Recipe:
    if not path.is_file():
        raise UserError(f"recipe {path}: no such file; give a recipe's name or the path of its page")
    try:
        # Not as an import: Python's cached bytecode takes a page edited within a second, to the same size, for the old.
        page = runpy.run_path(str(path), run_name=f"llava_moe_recipe_{path.stem}")
    except Exception as error:  # whatever a page of the user's does is the user's to fix
        raise UserError(f"recipe {path}: the page does not run ({type(error).__name__}: {error}); fix it") from error
    recipe = page.get("RECIPE")
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {path}: the page sets no RECIPE = Recipe(...); see the pages of llava_moe/recipes/")
    return recipe
