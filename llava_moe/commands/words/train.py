"""The words of ``llava-moe train``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from llava_moe.config.as_typed import as_typed, is_sweep, key_of, told_how_to_go_on, words_of_job
from llava_moe.config.hydra_compose import resolved, run_composed
from llava_moe.config.path_mappings import without_implied_data
from llava_moe.config.rates import notes_on_old_words
from llava_moe.config.settings import is_embedded, sources_of
from llava_moe.config.sweep_size import swept_keys
from llava_moe.embedded_base import EMBEDDED
from llava_moe.run_config import ModelConfig, RunConfig
from llava_moe.runs.named_files import find_data, find_starts, know_benchmarks
from llava_moe.runs.out_folder import refuse_foreign
from llava_moe.runs.run_names import job_name
from llava_moe.runs.stage_changes import refuse_longer_start, runs_to_go_on_with
from llava_moe.runs.stages import Stage, experiment_name, plan_stages
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.escape_control import visible
from llava_moe.train.folder import is_finished


def main(words: Sequence[str]) -> int:
    """Judge the words, say what trains and where, then train."""
    jobs: list[tuple[Path, list[str]]] = []
    with told_how_to_go_on():
        status = run_composed("train", words, lambda config, overrides: _begin(config, overrides, words, jobs))
    if is_sweep(words) and jobs:
        from llava_moe.commands.sweep import SweepJob, show_sweep

        typed = [as_typed(word) for word in words]
        show_sweep([SweepJob(root, tuple(alone)) for root, alone in jobs], typed, VisibleConsole())
    return status


def _begin(config: DictConfig, words: list[str], typed: Sequence[str], jobs: list[tuple[Path, list[str]]]) -> int:
    """Train one job; its folder and its words join ``jobs`` in the first process."""
    plain = resolved(config)
    stages = plan_stages(plain, words, _called(typed, words))
    experiment = RunConfig.of(plain)
    _find_place(experiment, stages)
    refuse_longer_start(stages)
    experiment, fitting = _without_the_demos_questions(experiment, stages, words)
    for stage in stages:
        if not is_finished(stage.folder, stage.config.plain):
            find_data(stage.config)
    find_starts([stage for stage in stages if not is_finished(stage.folder, stage.config.plain)])
    know_benchmarks(experiment.eval.benchmarks)
    if os.environ.get("RANK", "0") == "0":
        _say_first(experiment_name(words), experiment, stages)
        is_new = experiment.stages is None and experiment.out is None and not stages[0].folder.exists()
        others = runs_to_go_on_with(stages[0], experiment_name(words)) if is_new else []
        for note in (*notes_on_old_words(words), *others, *fitting):
            sys.stdout.write(visible(note) + "\n")
    from llava_moe.commands.train import train

    alone = without_implied_data(words_of_job(typed, words))
    root = train(experiment, stages, alone, says_next=not is_sweep(typed))
    jobs += [] if root is None else [(root, alone)]
    return 0


def _called(typed: Sequence[str], words: Sequence[str]) -> str | None:
    """How a run of a sweep is called: by what differs between them; None of a run alone."""
    if not is_sweep(typed):
        return None
    swept = swept_keys([word for word in typed if "=" in word and not word.startswith("-")])
    values = {key_of(word): word.partition("=")[2] for word in map(as_typed, words)}
    return job_name(swept, values) if set(swept) & set(values) else None


def _find_place(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Refuse a folder that cannot be written to, or that is no run's."""
    if config.stages is None:
        refuse_foreign(stages[0].folder)
        return
    refuse_foreign(stages[0].folder.parent, [stage.folder.name for stage in stages])
    for stage in stages:
        refuse_foreign(stage.folder)


def _without_the_demos_questions(
    config: RunConfig, stages: Sequence[Stage], words: Sequence[str]
) -> tuple[RunConfig, tuple[str, ...]]:
    """Take the demo's questions from a demo that learns from other data, unless they are asked for; a line says so."""
    asked_for = any(key_of(word) == "eval.benchmarks" for word in words)
    others = [name for name in config.eval.benchmarks if name != "demo"]
    if asked_for or experiment_name(words) != "demo" or others == [*config.eval.benchmarks]:
        return config, ()
    if is_embedded(stages[-1].config):
        return config, ()
    told = "the demo's questions are not asked of a run on other data; to ask them: eval.benchmarks=[demo]"
    return config.changed(eval={**config.plain["eval"], "benchmarks": others}), (told,)


def _say_first(name: str, config: RunConfig, stages: Sequence[Stage]) -> None:
    """The first line, before torch is loaded: nobody wonders whether anything happens."""
    folder = stages[0].folder if config.stages is None else stages[0].folder.parent
    last = stages[-1].config
    data = ", then ".join(dict.fromkeys(_data(stage.config) for stage in stages))
    line = f"llava-moe train: exp={name}, {_model(last.model)} on {data}, {folder}"
    sys.stdout.write(visible(line) + "\n")
    sys.stdout.flush()


def _model(model: ModelConfig) -> str:
    """Which model trains: its checkpoint, or that it is the small one of the package."""
    if model.path is not None:
        return f"model {model.path}"
    architecture = model.architecture
    named = architecture.get("path") or architecture.get("language_model")
    if named is None:
        return "a model of random weights"
    return "the small embedded model" if str(named).startswith(EMBEDDED) else f"model {named}"


def _data(config: RunConfig) -> str:
    """Which data it trains on: the embedded ones, others by the names of their sources."""
    sources = sources_of(config)
    nodes = config.data.sources
    names = [one.name for one in sources if not str(nodes[one.name]["path"]).startswith(EMBEDDED)]
    embedded = ["the embedded data"] if len(names) < len(sources) else []
    if config.path is not None and names == ["mine"]:
        names = [str(config.path)]
    shown = names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more sources"]
    return " and ".join([", ".join(shown), *embedded] if shown else embedded)
