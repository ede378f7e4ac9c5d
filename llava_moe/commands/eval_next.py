"""What to type after an evaluation: the words of this one are kept, so that model, data and protocol are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_moe.config.as_typed import listed, without
from llava_moe.eval.benchmark import BenchmarkResult
from llava_moe.eval.files import result_path
from llava_moe.eval.protocol import DEFAULT_PROTOCOL
from llava_moe.eval.results.comparison import ComparedBenchmark
from llava_moe.eval.results.scored_run import word_of
from llava_moe.eval.tasks import DEFAULT_ROOT
from llava_moe.files.checkpoints import stage_folders
from llava_moe.text.shell_words import shell

# What chat and eval both take to open a model.
OPENS_MODEL = ("run", "dtype", "num_threads", "seed", "model.path", "model.peft", "model.template", "model.image_mode")
SCORES = Path("runs/eval")
"""Where scores go of a model that is no run, unless told otherwise."""


def next_of_scores(plain: Mapping[str, Any], words: Sequence[str], results: Sequence[BenchmarkResult]) -> list[str]:
    """Commands that make sense after these scores, each to be typed as it stands.

    Args:
        plain: the settings.
        words: the words, as typed.
        results: of the benchmarks.
    """
    seeing = without(words, lambda key: key == "blind")
    if plain["blind"]:
        folder = folder_of(plain)
        if all(result_path(folder, result.benchmark).is_file() for result in results):
            return [f"{_eval(listed('runs', [folder]))}   # its scores beside those"]
        return [f"{_eval(*seeing)}   # the same with the pictures"]
    commands = []
    if plain["limit"]:
        whole = without(seeing, lambda key: key == "limit")
        commands.append(f"{_eval(*whole, 'limit=0')}   # every question; the answers there are kept")
    commands.append(f"{_eval(*seeing, 'blind=true')}   # the same questions beside grey pictures")
    if plain["model"]["endpoint"] is None:
        kept = without(words, lambda key: key not in OPENS_MODEL and not key.startswith("data."))
        commands.append(shell("llava-moe", "chat", *kept))
    return commands


def folder_of(plain: Mapping[str, Any]) -> Path:
    """The folder whose ``eval/`` holds the scores, those of blind answers aside."""
    return Path(plain["out"] or plain["run"] or SCORES)


def _eval(*words: str) -> str:
    return shell("llava-moe", "eval", *words)


def is_run(folder: Path) -> bool:
    """Whether scores lie in the folder of a run, which can be asked again by its name."""
    return bool(stage_folders(folder)) or (folder / "config.yaml").is_file()


def asked_alike(compared: Sequence[ComparedBenchmark]) -> list[tuple[list[str], list[str]]]:
    """The benchmarks that were asked by the same words, by name or by the path of their file, and those words."""
    names: dict[tuple[str, ...], list[str]] = {}
    for one in compared:
        names.setdefault(tuple(_words_of(one)), []).append(word_of(one.name, one.facts))
    return [(alike, list(words)) for words, alike in names.items()]


def _words_of(compared: ComparedBenchmark) -> list[str]:
    """The words of ``eval`` that ask a benchmark as it was asked."""
    facts = compared.facts
    if facts is None:
        return []
    words = [] if facts.protocol == DEFAULT_PROTOCOL.name else [f"protocol={facts.protocol}"]
    words += [] if facts.limit is None else [f"limit={facts.limit}"]
    words += [] if facts.seed == 0 else [f"seed={facts.seed}"]
    if facts.content:
        return [*words, *([f"images={facts.images}"] if facts.images else [])]
    if facts.place and facts.place != str(Path(DEFAULT_ROOT, compared.name)):
        words.append(f"benchmark_paths.{compared.name}={facts.place}")
    return words
