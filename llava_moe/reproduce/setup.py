"""A figure as its yaml says it, at a scale: words of its trainings, what is measured of them, what is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llava_moe.errors import UserError
from llava_moe.files.our_files import misfit, read_text
from llava_moe.grid.measured import Measures, Score
from llava_moe.text.structured_text import StructuredTextError, parse_yaml

FIGURES = Path(__file__).with_name("figures")
SCALES = Path(__file__).with_name("scales.yaml")
SCALE_NAMES = ("demo", "full")
Hand = Literal["first", "second", "not available"]
_PUBLISHED = {"id": str, "what": str, "value?": str, "unit?": str, "source?": str, "hand": str}
_SCORE = {"benchmark": str, "name": str, "closed?": bool, "kinds?": [str]}
_SCALE = {
    **{"stage1": [[str]], "words": [str], "both": [str], "samples": {str: {str: int}}, "seeds": [int]},
    **{"split": (str, type(None)), "eval": [str], "scores": {str: _SCORE}},
    "axes?": dict,
}
_FIGURE = {"title": str, "effect": str, "published": [_PUBLISHED], **{f"{name}?": dict for name in SCALE_NAMES}}


@dataclass(frozen=True)
class Published:
    """One published number, or the word that there is none for us.

    Attributes:
        id: by which a figure sets its own number beside it.
        hand: ``first``: read in the paper or in its authors' words; ``second``: in someone else's notes.
    """

    id: str
    what: str
    hand: Hand
    value: str = ""
    unit: str = ""
    source: str = ""


@dataclass(frozen=True)
class Setup:
    """A figure at a scale; words are those of ``llava-moe train``.

    Attributes:
        effect: what the paper says that it shows, as a sentence.
        stage1: the words of the trainings that all others start from, each from the one before.
        words: of every training of stage 2; ``both``: of these and of stage 1.
        samples: domain to source to its samples in an epoch; a domain without sources is taken as the experiment has
            it.
        measures: what every cell of stage 2 is measured on; ``eval``: the words that score it.
        axes: what this figure's module varies, as it pleases.
        runs_called: a part of the name of each run of stage 2, where a word of the user's makes them other than the
            yaml's; figures that share a folder of runs do not meet each other's then.
    """

    paper: str
    figure: str
    scale: str
    title: str
    effect: str
    stage1: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]
    both: tuple[str, ...]
    samples: Mapping[str, Mapping[str, int]]
    seeds: tuple[int, ...]
    eval: tuple[str, ...]
    measures: Measures
    axes: Mapping[str, Any]
    published: tuple[Published, ...]
    runs_called: str = ""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains in their order."""
        return tuple(self.samples)

    def with_samples(self, num: int) -> Setup:
        """The same figure with ``num`` samples of each source in an epoch; its runs carry the number in their names.

        Raises:
            UserError: a domain is taken as its experiment has it, without sources by name.
        """
        unnamed = [domain for domain, sources in self.samples.items() if not sources]
        if unnamed:
            told = (
                f"samples={num}: at scale={self.scale} this figure takes {unnamed[0]} whole, as its experiment has it"
            )
            raise UserError(f"{told}: leave samples= away, or name the sources under {self.scale}.samples in its yaml")
        samples = {domain: dict.fromkeys(sources, num) for domain, sources in self.samples.items()}
        return replace(self, samples=samples, runs_called=f"n{num}")

    def axis(self, name: str, shape: Any) -> Any:
        """One of ``axes``.

        Args:
            shape: as of :mod:`llava_moe.files.our_files`.

        Raises:
            UserError: the yaml lacks it at this scale, or it has another shape.
        """
        told = misfit(self.axes, {name: shape})
        if told:
            path = FIGURES / f"{self.paper}_{self.figure}.yaml"
            raise UserError(f"{path}: {self.scale}.axes: {told}")
        return self.axes[name]


def read_setup(paper: str, figure: str, scale: str) -> Setup:
    """The figure's yaml over ``scales.yaml``.

    Raises:
        UserError: a file is missing or damaged, or something in it is missing, unknown or of another kind.
    """
    path = FIGURES / f"{paper}_{figure}.yaml"
    given, shared = _read(path), _read(SCALES)
    if told := misfit(given, _FIGURE):
        raise UserError(f"{path}: {told}; docs/reproduce.md tells what a figure's yaml has")
    own = given.get(scale, {})
    merged = shared[scale] | own
    unknown = sorted((set(given) - {name.removesuffix("?") for name in _FIGURE}) | (set(own) - set(shared[scale])))
    unknown = [name for name in unknown if name != "axes"]
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]}; docs/reproduce.md tells what a figure's yaml has")
    if told := misfit(merged, _SCALE, scale):
        raise UserError(f"{path}: {told}; docs/reproduce.md tells what a figure's yaml has")
    scores = {domain: Score.of_told(one) for domain, one in merged["scores"].items()}
    return Setup(
        paper=paper,
        figure=figure,
        scale=scale,
        title=given["title"],
        effect=given["effect"],
        stage1=tuple(map(tuple, merged["stage1"])),
        words=tuple(merged["words"]),
        both=tuple(merged["both"]),
        samples=merged["samples"],
        seeds=tuple(merged["seeds"]),
        eval=tuple(merged["eval"]),
        measures=Measures(tuple(merged["samples"]), merged["split"], scores),
        axes=merged.get("axes", {}),
        published=tuple(Published(**one) for one in given["published"]),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        told = parse_yaml(read_text(path, "put it back"))
    except StructuredTextError as error:
        raise UserError(f"{path} is no yaml ({error}): fix it there") from error
    if misfit(told, {}):
        raise UserError(f"{path} holds no settings: put it back")
    return dict(told)
