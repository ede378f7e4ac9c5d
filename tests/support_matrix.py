"""Writes docs/support.md: what was tested of engine x adapter x stage x precision x recomputation x resume.

    python -m tests.support_matrix

It is made of ``tests/support.yaml``, which says of each test what it trains. A combination that no test of it has reads
"not tested".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
DECLARED, PAGE = ROOT / "tests" / "support.yaml", ROOT / "docs" / "support.md"
PRECISIONS = ("fp32", "bf16")
NOT_TESTED = "not tested"
CLASSES = {"Lora": "lora", "LlavaMole": "llava_mole", "MixLora": "mixlora", "Mole": "mole", "NoAdapter": "none"}

OPENING = """# What was tested together

Made by `python -m tests.support_matrix` of `tests/support.yaml`; a test holds the page to it. A number is that of a
test in the [list](#the-tests) below. All of them run on CPUs, with small models: nothing was run on a GPU. A test under
a stage trains through the command line, and the configurations of its runs are held against what stands here.

"Goes on" is a run that was stopped, or begun by another engine, and goes on under this one. "Recomputed" is
`train.activation_checkpointing=true`. What an engine divides does not depend on the adapter, so what was tested of each
alone stands in tables of its own. `auto` and `auto_zero2` take one of these engines
([training.md](training.md#several-devices)).
"""


@dataclass(frozen=True)
class Combination:
    """A cell. ``engine`` or ``adapter`` is "" where the other was tested alone."""

    engine: str = ""
    adapter: str = ""
    stage: str = "instruct"
    precision: str = "fp32"
    recomputation: bool = False
    resume: bool = False


@dataclass(frozen=True)
class Case:
    """A test with its parameters, and the combinations that it tests."""

    test: str
    parameters: str
    combinations: tuple[Combination, ...]

    @property
    def node(self) -> str:
        """As pytest names it."""
        return _node(self.test, self.parameters)


@cache
def declared() -> dict[str, Any]:
    """What ``tests/support.yaml`` says."""
    told: dict[str, Any] = yaml.safe_load(DECLARED.read_text(encoding="utf-8"))
    return told


@cache
def cases_of(part: str) -> tuple[Case, ...]:
    """The cases of ``trained``, ``engines_alone`` or ``adapters_alone``."""
    return tuple(
        Case(entry["test"], str(parameters), tuple(_combinations(entry, own)))
        for entry in declared()[part]
        for parameters, own in entry["cases"].items()
    )


def every_node() -> list[str]:
    """Every test that the page names, as pytest names it."""
    refused = [_node(entry["test"], entry["case"]) for entry in declared()["refused"]]
    return [case.node for part in ("trained", "engines_alone", "adapters_alone") for case in cases_of(part)] + refused


def _node(test: str, parameters: str) -> str:
    return f"{test}[{parameters}]" if parameters else test


def _combinations(entry: Mapping[str, Any], own: Any) -> Iterator[Combination]:
    axes = [field.name for field in fields(Combination)]
    shared = {name: value for name, value in entry.items() if name not in ("test", "cases")}
    several: list[Mapping[str, Any]] = own if isinstance(own, list) else [own]
    for said in several:
        values = {**shared, **said}
        assert set(values) <= set(axes), f"{entry['test']}: {sorted(set(values) - set(axes))} is no axis"
        lists = [value if isinstance(value, list) else [value] for value in values.values()]
        for chosen in product(*lists):
            yield Combination(**dict(zip(values, chosen, strict=True)))


def page() -> str:
    """The page."""
    numbers: dict[str, int] = {}
    parts = [OPENING]
    for stage, told in declared()["stages"].items():
        parts.append(f"## {told['title']}\n")
        parts.append(_table(stage, told["adapters"], numbers))
    parts.append("## The engine alone\n\nOn a module of three tensors, without a model.\n")
    parts.append(_engines_alone(numbers))
    parts.append("## The adapter alone\n\nForward and backward on a model of two layers, without an engine.\n")
    parts.append(_adapters_alone(numbers))
    parts.append("## Refused\n\nWith a line that says what to do, and status 2.\n")
    rows = [[one["where"], f"refused: `{one['says']}`", _mark(one["test"], numbers)] for one in declared()["refused"]]
    parts.append(_markdown(["asked for", "answer", "test"], rows))
    parts.append("## The tests\n")
    parts.append("".join(f"{number}. `{test}`\n" for test, number in numbers.items()))
    return "\n".join(parts)


def _table(stage: str, adapters: Sequence[str], numbers: dict[str, int]) -> str:
    """A row for each adapter and way to train it that some engine was tested with; the others in lines below."""
    engines, titles = declared()["engines"], declared()["adapters"]
    rows: list[list[str]] = []
    untested: dict[str, list[str]] = {}
    for adapter, precision, recomputation, resume in product(adapters, PRECISIONS, (False, True), (False, True)):
        ways = [Combination(engine, adapter, stage, precision, recomputation, resume) for engine in engines]
        told = _way(precision, recomputation, resume)
        cells = [_cell(way, "trained", numbers) for way in ways]
        if set(cells) == {NOT_TESTED}:
            untested.setdefault(told, []).append(titles[adapter])
        else:
            rows.append([titles[adapter], told, *cells])
    table = _markdown(["adapter", "", *engines.values()], rows) + "\n" if rows else ""
    lines = [f"- {way}: {', '.join(named)}\n" for way, named in untested.items()]
    return table + f"{NOT_TESTED.capitalize()}, whatever the engine:\n\n" + "".join(lines) if lines else table


def _way(precision: str, recomputation: bool = False, resume: bool = False) -> str:
    return ", ".join([precision, *["recomputed"] * recomputation, *["goes on"] * resume])


def _engines_alone(numbers: dict[str, int]) -> str:
    engines = declared()["engines"]
    rows = [
        [
            _way(precision, resume=resume),
            *(_cell(Combination(one, precision=precision, resume=resume), "engines_alone", numbers) for one in engines),
        ]
        for precision, resume in product(PRECISIONS, (False, True))
    ]
    return _markdown(["", *engines.values()], rows)


def _adapters_alone(numbers: dict[str, int]) -> str:
    adapters = declared()["adapters"]
    ways = [(precision, recomputed) for precision in PRECISIONS for recomputed in (False, True)]
    rows = []
    for precision, recomputed in ways:
        cells = [
            _cell(Combination("", one, precision=precision, recomputation=recomputed), "adapters_alone", numbers)
            for one in adapters
        ]
        rows.append([_way(precision, recomputed), *cells])
    return _markdown(["", *adapters.values()], rows)


def _cell(wanted: Combination, part: str, numbers: dict[str, int]) -> str:
    tests = dict.fromkeys(case.test for case in cases_of(part) if wanted in case.combinations)
    return ", ".join(_mark(test, numbers) for test in tests) or NOT_TESTED


def _mark(test: str, numbers: dict[str, int]) -> str:
    return str(numbers.setdefault(test, len(numbers) + 1))


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def hold_to_the_matrix(node: str, folder: Path) -> None:
    """Compare what is said of a test with the configurations of the runs that it left in its folder.

    Raises:
        AssertionError: none of them is of a combination that stands there.
    """
    said = _trained_by_node().get(node, ())
    if not said:
        return
    runs = [path.parent for path in folder.rglob("config.yaml") if (path.parent / "log.jsonl").is_file()]
    trained = {combination_of(run) for run in runs}
    for wanted in said:
        alike = [one for one in trained if _but_for_engine(one) == _but_for_engine(wanted)]
        # Where several engines take turns, a run tells of the last.
        engines = {one.engine for one in said if one.resume} if wanted.resume else {wanted.engine}
        assert engines & {one.engine for one in alike}, f"tests/support.yaml says {wanted}, the runs are {trained}"


@cache
def _trained_by_node() -> dict[str, tuple[Combination, ...]]:
    return {case.node: case.combinations for case in cases_of("trained")}


def _but_for_engine(one: Combination) -> tuple[str, str, str, bool]:
    return one.adapter, one.stage, one.precision, one.recomputation


def combination_of(run: Path) -> Combination:
    """What a run's folder says of itself; whether it was stopped it does not."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    engine = json.loads((run / "environment.json").read_text(encoding="utf-8"))["engine"]
    parallel, stage, train = config["parallel"], config["stage"], config["train"]
    if engine == "deepspeed":
        offload = parallel["offload_optimizer"] or parallel["offload_parameters"]
        engine = f"zero{parallel['stage']}" + ("_offload" if offload else "")
    trains_tower = bool(stage["learning_rates"].get("vision_tower"))
    is_sharegpt4v = stage["name"] == "pretrain" and trains_tower
    return Combination(
        engine="single" if engine == "local" else engine,
        adapter=CLASSES[config["adapter"]["_target_"].rpartition(".")[2]],
        stage="pretrain_sharegpt4v" if is_sharegpt4v else stage["name"],
        precision=train["dtype"],
        recomputation=train["activation_checkpointing"],
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
