"""``llava-moe compose``: one model from LoRAs trained apart, by MoLE's gates or by a merge; and which is best."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import transformers
from omegaconf import DictConfig
from rich.console import Console

from llava_moe.commands.compose_config import as_yaml, compose_again, resolved, run_composed
from llava_moe.commands.limits import FLAG, Choice, Limit, ListOf, OrNull, Real, Text, Whole, check_settings
from llava_moe.commands.processes import join_processes
from llava_moe.commands.settings import fingerprint, settle
from llava_moe.commands.stages import RUNS, set_threads
from llava_moe.commands.stop_signals import StopSignals
from llava_moe.errors import UserError
from llava_moe.visible_console import VisibleConsole

MERGES = ("linear", "normalized_linear", "svd", "ties", "dare_ties")
# Settings of MoLE that compose takes by their bare names.
ADAPTER_KEYS = ("experts", "granularity", "temperature", "balance_coef", "mask", "exact")
OWN_KEYS = (*ADAPTER_KEYS, "run", "method", "pick", "split", "limit", "weights", "density", "rank")
LIMITS: dict[str, Limit] = {
    "experts": OrNull(ListOf(Text())),
    "run": OrNull(Text()),
    "out": OrNull(Text()),
    "mask": OrNull(ListOf(Choice((0, 1)))),
    "method": Choice(("mole", *MERGES)),
    "pick": FLAG,
    "split": Text(),
    "limit": Whole(1),
    "weights": OrNull(ListOf(Real(float("-inf")))),
    "density": Real(0, 1, open_below=True),
    "rank": OrNull(Whole(1)),
}


def main(words: Sequence[str]) -> int:
    """Compose the configuration and the model."""
    own = [word for word in words if _key(word) in OWN_KEYS]
    rest = [word for word in words if _key(word) not in OWN_KEYS]
    if any(_key(word) == "run" for word in own):
        return run_composed("compose", words, lambda config, _: _mask(config))
    return run_composed("train", [*_train_words(own, rest), *rest], lambda config, _: _compose(config, own, rest))


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def _train_words(own: Sequence[str], rest: Sequence[str]) -> list[str]:
    """What training needs to be told beside the user's own words."""
    given = {_key(word): word.partition("=")[2] for word in own}
    if not given.get("experts"):
        raise UserError("compose needs experts=: folders of LoRAs, such as experts=[runs/general,runs/documents]")
    for key, instead in (("adapter", "method= says how to compose"), ("stage", "compose has a stage of its own")):
        if any(_key(word) == key for word in rest):
            raise UserError(f"{key}= is not for compose: {instead}; leave it out")
    words = ["adapter=mole", "stage=compose"]
    if not any(_key(word) == "exp" for word in rest):
        words.append("exp=mix_general_doc_med")
    return words + [f"adapter.{key}={_as_list(key, value)}" for key, value in given.items() if key in ADAPTER_KEYS]


def _as_list(key: str, value: str) -> str:
    return f"[{value}]" if key == "experts" and not value.startswith("[") else value


def _mask(config: DictConfig) -> int:
    """Leave experts out of a composition whose gates were trained."""
    from llava_moe.commands.compose_merge import write_masked

    choices = resolved(config, "compose")
    check_settings(choices, LIMITS)
    if choices["experts"] is not None or choices["mask"] is None or choices["out"] is None:
        raise UserError("compose run= leaves experts out of a composition: give mask=[1,0] and out=FOLDER, no experts=")
    folder, console = Path(choices["out"]), VisibleConsole(soft_wrap=True)
    write_masked(choices, folder, console)
    console.print("\nNext:", highlight=False)
    for command in _next_commands(folder):
        console.print(f"  {command}", highlight=False, markup=False)
    return 0


def _compose(config: DictConfig, own: Sequence[str], rest: Sequence[str]) -> int:
    own = [f"{_key(word)}={_as_list(_key(word), word.partition('=')[2])}" for word in own]
    choices = resolved(compose_again("compose", own), "compose")
    check_settings(choices, LIMITS)
    plain = settle(resolved(config))
    if len(choices["experts"]) < 2:
        raise UserError(f"experts={choices['experts']}: a composition needs two LoRAs or more")
    if choices["method"] == "mole" and choices["mask"] is not None and sum(choices["mask"]) == 1:
        raise UserError(f"mask={choices['mask']} leaves one expert, so there is nothing to train: use that LoRA itself")
    if plain["stages"] is not None:
        raise UserError("compose trains one stage: give an experiment without stages, such as exp=mix_general_doc_med")
    console = VisibleConsole(soft_wrap=True)
    if not console.is_terminal:
        transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
    set_threads(plain)
    started = time.monotonic()
    plain = _on_common_base(choices, plain)
    if choices["method"] == "mole":
        folder, is_first = _train_gates(choices, plain, console)
    else:
        folder, is_first = _merge(choices, plain, console), True
    if is_first:
        if choices["pick"]:
            merging = [word for word in own if _key(word) in ("weights", "density", "rank")]
            _pick(choices, plain, folder, console, [*merging, *(word for word in rest if _key(word) != "out")])
        minutes = (time.monotonic() - started) / 60
        console.print(f"done in {minutes:.1f} minutes: {folder}", highlight=False, markup=False)
        console.print("\nNext:", highlight=False)
        for command in _next_commands(folder, can_pick=not choices["pick"]):
            console.print(f"  {command}", highlight=False, markup=False)
    return 0


def _on_common_base(choices: Mapping[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """The configuration, started from the base parts that the experts were trained on."""
    from llava_moe.compose.base_parts import common_start, refuse_other_models

    refuse_other_models(choices["experts"], plain["model"])
    if plain["init_from"] is None:
        from llava_moe.commands.compose_start import start_of_folders

        place = Path(plain["out"]).absolute().parent if plain["out"] else RUNS
        start = start_of_folders(choices["experts"], plain, common_start(choices["experts"]), place)
        plain["init_from"] = None if start is None else str(start)
    return plain


def _train_gates(choices: Mapping[str, Any], plain: dict[str, Any], console: Console) -> tuple[Path, bool]:
    """Train MoLE's gates as any stage is trained; return the run's folder and whether this is the first process."""
    from llava_moe.commands.curve_viewers import settle_viewers
    from llava_moe.commands.stage import check_stage, is_finished, train_stage

    folder = Path(plain["out"]) if plain["out"] else RUNS / f"mole-{fingerprint(plain)}"
    with StopSignals() as stop_signals:
        if not is_finished(folder):
            check_stage(plain)
            for note in settle_viewers([plain["log"]]):
                console.print(note, style="yellow", highlight=False, markup=False)
        processes = join_processes(plain["parallel"])
        quiet = VisibleConsole(quiet=True) if processes.rank else console
        title = f"mole of {len(choices['experts'])} experts"
        train_stage(plain, as_yaml(plain), folder, title, processes, quiet, stop_signals)
    if processes.rank == 0:
        from llava_moe.commands.reporting import write_run_report

        console.print(f"report: {write_run_report(folder)}", highlight=False, markup=False)
    return folder, processes.rank == 0


def _merge(choices: Mapping[str, Any], plain: dict[str, Any], console: Console) -> Path:
    """Write a merge as the folder of a run that was not trained: what reads runs reads it."""
    from llava_moe.commands.compose_merge import write_merge

    named = fingerprint(plain | {"choices": {key: choices[key] for key in ("method", "weights", "density", "rank")}})
    folder = Path(plain["out"]) if plain["out"] else RUNS / f"{choices['method']}-{named}"
    write_merge(choices, plain, folder, console)
    return folder


def _pick(
    choices: Mapping[str, Any], plain: dict[str, Any], folder: Path, console: Console, rest: Sequence[str]
) -> None:
    from llava_moe.commands.compose_merge import pick_best

    picked = pick_best(choices, plain, folder)
    picked.write(folder)
    console.print(picked.table())
    for note in picked.notes:
        console.print(note, style="dim", highlight=False)
    best = picked.best
    if best.place is not None:
        what = f"llava-moe eval run={best.place}"
    else:
        experts = ",".join(choices["experts"])
        what = " ".join(["llava-moe compose", f"experts=[{experts}]", f"method={best.name}", *rest])
    console.print(f"best on average: {best.name}; to go on with it: {what}", highlight=False, markup=False)


def _next_commands(folder: Path, can_pick: bool = False) -> list[str]:
    commands = [f"llava-moe eval run={folder}", f"llava-moe chat run={folder}"]
    if can_pick:
        commands.append("the same command with pick=true    # held-out loss of each expert, each merge and this")
    return commands
