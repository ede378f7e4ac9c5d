"""The runs of a comparison: each way of training composed once, its stages as cells, equal first stages made once."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llava_moe.commands.compare_axes import SCORING, Asked
from llava_moe.config.as_typed import as_typed, key_of
from llava_moe.config.hydra_compose import compose_again, resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.key_limits import TRAIN
from llava_moe.config.path_mappings import words_with_own_data
from llava_moe.config.settings import is_embedded, sources_of
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.grid.cell import Cell, Grid, Words
from llava_moe.run_config import RunConfig
from llava_moe.runs.named_files import find_data, find_starts
from llava_moe.runs.run_names import SEED, apart, as_folder, digest, joined, mixture_name, value_names
from llava_moe.runs.stages import Stage, plan_stages
from llava_moe.text.structured_text import parse_yaml
from llava_moe.train.folder import flatten

if TYPE_CHECKING:
    from llava_moe.commands.compare_scores import Scoring  # which loads what reads data

Compose = Callable[[list[str]], object]
FIRST_STAGE = "first stage"
"""The label of a run that others start from; it has a blank, which no key has."""


@dataclass(frozen=True)
class Variant:
    """One way of training, with any seed.

    Attributes:
        name: how a page calls it.
        chosen: key to value, of the keys that differ but the seed.
        stages: composed with the first seed.
    """

    name: str
    chosen: Mapping[str, str]
    stages: tuple[Stage, ...]

    @property
    def config(self) -> RunConfig:
        """Of its last stage."""
        return self.stages[-1].config


@dataclass(frozen=True)
class Compared:
    """What is to be made and compared.

    Attributes:
        name: of the folder, where none is given.
        ways: the one first that others are held against.
        seeds: of each way.
        domains: of all ways.
        scoring: what is measured of each run.
    """

    name: str
    grid: Grid
    ways: tuple[Variant, ...]
    seeds: tuple[int, ...]
    domains: tuple[str, ...]
    scoring: Scoring


def open_grid(asked: Asked) -> Compared:
    """Compose every way and put the grid together. Runs inside a job of Hydra's.

    Raises:
        UserError: a way that does not compose, two that are the same training, or several bases.
    """
    names = value_names({axis.key: axis.values for axis in asked.axes})
    ways = _named_apart(tuple(_ways(asked, names)))
    for way in ways:
        find_data(way.config)
        find_starts(way.stages)
    _refuse_equal(ways)
    _refuse_several_bases(ways)
    seeds = _seeds(asked, ways[0])
    domains = tuple(dict.fromkeys(source.domain for way in ways for source in sources_of(way.config)))
    from llava_moe.commands.compare_scores import scoring_of

    scoring = scoring_of(ways[0].config, _benchmarks(asked, ways), domains)
    cells = _cells(asked, ways, seeds, names, scoring.measured)
    grid = Grid("compare", cells)
    return Compared(_name(asked), grid, ways, seeds, domains, scoring)


def stage_of(compared: Compared, cell: Cell) -> Stage:
    """What a cell trains, composed with the first seed."""
    for way in compared.ways:
        for stage in way.stages:
            if cell.labels.get(FIRST_STAGE) == stage.folder.name:
                return stage
        if FIRST_STAGE not in cell.labels and all(cell.labels[key] == value for key, value in way.chosen.items()):
            return way.stages[-1]
    raise ValueError(f"no way of training has the cell {cell.name}")


def words_of(asked: Asked, chosen: Mapping[str, str]) -> list[str]:
    """The words that train one way, as the command line prepares them."""
    typed = [*asked.words, *(f"{key}={value}" for key, value in chosen.items())]
    return words_with_own_data([prepare_override(word) for word in sorted(typed, key=key_of)])


def first_values(asked: Asked) -> dict[str, str]:
    """Key to value of the first run."""
    return {axis.key: axis.values[0] for axis in asked.axes}


def told_of(error: UserError, asked: Asked, chosen: Mapping[str, str], compose: Compose) -> UserError:
    """An error with the values that it comes of, where it does not name one itself.

    A value has no part in it where the key's other values are refused with the same words.

    Args:
        compose: raises what keeps other values from being trained.
    """
    axes = [axis for axis in asked.axes if axis.key != SEED]
    if any(f"{axis.key}={chosen[axis.key]}" in str(error) for axis in axes):
        return error

    def is_refused_alike(values: Mapping[str, str]) -> bool:
        try:
            compose(words_of(asked, values))
        except UserError as other:
            return str(other) == str(error)
        return False

    guilty = [
        f"{axis.key}={chosen[axis.key]}"
        for axis in axes
        if not all(is_refused_alike({**chosen, axis.key: value}) for value in axis.values if value != chosen[axis.key])
    ]
    return UserError(f"{' '.join(guilty)}: {error}") if guilty else error


def _ways(asked: Asked, names: Mapping[str, Mapping[str, str]]) -> Iterator[Variant]:
    axes = [axis for axis in asked.axes if axis.key != SEED]
    first_seed = {axis.key: axis.values[0] for axis in asked.axes if axis.key == SEED}
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        try:
            stages = _stages(words_of(asked, chosen | first_seed))
        except UserError as error:
            raise told_of(error, asked, chosen | first_seed, _stages) from error
        name = joined(*(names[key][value] for key, value in chosen.items()))
        yield Variant(name or mixture_name(_data(asked)) or "all", chosen, tuple(stages))


def _stages(words: list[str]) -> list[Stage]:
    return plan_stages(resolved(compose_again("train", words)), words)


def _named_apart(ways: Sequence[Variant]) -> tuple[Variant, ...]:
    named = apart({json.dumps(dict(way.chosen)): way.name for way in ways})
    return tuple(replace(way, name=named[json.dumps(dict(way.chosen))]) for way in ways)


def _refuse_equal(ways: Sequence[Variant]) -> None:
    """Refuse two ways that are one training: their values say the same, or no key of the training differs."""
    seen: dict[str, Variant] = {}
    for way in ways:
        # A later stage starts from a folder that is named by the words; of a run of one stage it is a choice.
        places = ("out", "init_from") if len(way.stages) > 1 else ("out",)
        flat = {key: value for key, value in flatten(way.config.plain).items() if key not in places}
        starts = [stage.words for stage in way.stages[:-1]]
        told = json.dumps([starts, flat], sort_keys=True, default=str)
        if told in seen:
            raise UserError(f"{seen[told].name} and {way.name} are the same training: give values that differ")
        seen[told] = way


def _refuse_several_bases(ways: Sequence[Variant]) -> None:
    bases = {json.dumps(way.config.model.architecture, sort_keys=True, default=str): way for way in ways}
    if len(bases) > 1:
        first, other, *_ = bases.values()
        raise UserError(
            f"{first.name} and {other.name} stand on two bases, whose losses a token say nothing beside each other: "
            "compare one base, or give runs of several to llava-moe eval runs="
        )


def _seeds(asked: Asked, way: Variant) -> tuple[int, ...]:
    values = next((axis.values for axis in asked.axes if axis.key == SEED), None)
    if values is None:
        return (way.config.seed,)
    seeds = [parse_yaml(value) for value in values]
    for place, seed in enumerate(seeds):
        check_settings({SEED: seed}, {SEED: TRAIN[SEED]})
        if seed in seeds[:place]:
            raise UserError(f"{SEED}={values[place]} is the seed {seed}, which is there already: give each once")
    return tuple(seeds)


def _benchmarks(asked: Asked, ways: Sequence[Variant]) -> list[str]:
    """Those that every run is asked: of runs on the demo its own, where none was typed."""
    names = [*dict.fromkeys(ways[0].config.eval.benchmarks)]
    is_asked = any(key_of(word) == "eval.benchmarks" for word in asked.words)
    if not names and not is_asked and all(is_embedded(way.config) for way in ways):
        names = ["demo"]
    return names


def _cells(
    asked: Asked,
    ways: Sequence[Variant],
    seeds: Sequence[int],
    names: Mapping[str, Mapping[str, str]],
    measured: tuple[Words, ...],
) -> tuple[Cell, ...]:
    """Seed by seed, way by way: what is there after any of them is a smaller comparison."""
    runs = [_Run(way, seed, asked) for seed in seeds for way in ways]
    named = _run_names(asked, runs, names)
    cells: dict[str, Cell] = {}
    for run in runs:
        start: str | None = None
        for number, stage in enumerate(run.way.stages):
            is_last = number == len(run.way.stages) - 1
            cell = Cell(
                name=named[run.path(number)],
                words=run.words(number),
                start=start,
                measured=measured if is_last else (),
                reads=f"{'last' if is_last else stage.folder.name} {_read(stage.config.plain)}",
                labels={**(run.way.chosen if is_last else {FIRST_STAGE: stage.folder.name}), SEED: run.seed},
            )
            start = cells.setdefault(cell.name, cell).name
    return tuple(cells.values())


@dataclass(frozen=True)
class _Run:
    way: Variant
    seed: int
    asked: Asked

    def words(self, number: int) -> Words:
        """A stage's own words as a user types them; what scores the runs is not among them."""
        stage = self.way.stages[number]
        dropped = (*SCORING, SEED, *(("init_from",) if number else ()))
        own = [as_typed(word) for word in stage.words if key_of(word) not in dropped]
        more = ["eval.benchmarks=[]"] if stage.config.eval.benchmarks else []
        if (images := stage.config.eval.images) is not None:
            from llava_moe.runs.own_questions import images_word

            # Of files that are asked on the way alone: those of others are none of the training's.
            more += images_word("eval.images", images, stage.config.eval.during) or ["eval.images=null"]
        return (*self.asked.flags, *own, *more, f"{SEED}={self.seed}")

    def path(self, number: int) -> str:
        """What a stage is: its words, those of the stages before it, and whether it is looked at or started from."""
        return json.dumps([number == len(self.way.stages) - 1, *(self.words(one) for one in range(number + 1))])


def _run_names(asked: Asked, runs: Sequence[_Run], names: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The name of each stage of each run: of a last stage what differs, of one before it what its runs do not share."""
    has_seeds = any(axis.key == SEED for axis in asked.axes)
    mixture = None if "data" in names else mixture_name(_data(asked))
    sharing: dict[str, list[tuple[_Run, int]]] = {}
    for run in runs:
        for number in range(len(run.way.stages)):
            sharing.setdefault(run.path(number), []).append((run, number))
    told = {}
    for path, own in sharing.items():
        run, number = own[0]
        is_last = number == len(run.way.stages) - 1
        kept = [key for key in run.way.chosen if len({one.way.chosen[key] for one, _ in own}) == 1]
        parts = [names[key][run.way.chosen[key]] for key in kept if is_last or len(set(names[key])) > 1]
        seed = f"seed{run.seed}" if has_seeds else None
        told[path] = as_folder(
            joined(mixture if is_last else run.way.stages[number].folder.name, *parts, seed) or "all"
        )
    return apart(told)


def _read(config: Mapping[str, Any]) -> str:
    """What decides which records a run reads, and how: of runs in which it is the same, the records must be, too."""
    train, stage = config["train"], config["stage"]
    decided = [
        *(config["data"], config["domains"], config["domain_scale"], config["model"]),
        *(train["max_length"], train["over_length"], stage["template"], stage["image_mode"], stage["text"]),
    ]
    return digest(json.dumps(decided, sort_keys=True, default=str))


def _data(asked: Asked) -> str | None:
    return next((word.partition("=")[2] for word in asked.words if key_of(word) == "data"), None)


def _name(asked: Asked) -> str:
    """Of the comparison: more values of the same keys leave it as it is."""
    typed = {key_of(word): word.partition("=")[2] for word in asked.words}
    keys = [axis.key for axis in asked.axes if axis.key != SEED] or [SEED]
    told = joined(typed.get("exp"), mixture_name(typed.get("data")), *(key.rpartition(".")[2] for key in keys))
    return as_folder(f"{told[:60]}-{digest(*asked.base)}")
