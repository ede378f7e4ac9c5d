"""What a run leaves for its reader: the report page and the commands to type next, which fit the run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from llava_moe.assemble import lineage, read_config
from llava_moe.config.as_typed import is_sweep, key_of, without
from llava_moe.config.config_folder import shipped_folders
from llava_moe.config.settings import is_embedded
from llava_moe.data.images.paths import PICTURES
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.our_files import read_object
from llava_moe.report.run import report_run
from llava_moe.run_config import RunConfig
from llava_moe.text.shell_words import as_place, named, shell
from llava_moe.text.structured_text import parse_yaml
from llava_moe.train.folder import ENVIRONMENT

# Which experiment goes on from a stage 1; of any other one, the headline.
GOES_ON = {"pretrain_llava_med": "llava_med"}
HEADLINE = "mix_general_doc_med"
# Entries of an image folder that are looked at for a picture to ask about.
_MOST_ENTRIES = 1000


def next_commands(root: Path, has_scores: bool, train_words: Sequence[str] | None = None) -> list[str]:
    """Commands that make sense after this run, each to be typed as it stands.

    Args:
        root: the folder of a run, or of an experiment of several stages.
        train_words: the words that trained it, as typed; None where they are not known.
    """
    checkpoint = newest_checkpoint(root)
    config = read_config(checkpoint.parent.parent)
    if config.stage.template == "plain":
        commands = [chat_with(root, config, "what it says of a picture")]
        return commands if train_words is None else [*commands, _stage_two(root, train_words)]
    kept = None if train_words is None else _words_of_others(train_words, checkpoint, config)
    if not is_embedded(config):
        commands = _own(root, config, train_words)
        return commands if kept is None else [*commands, *_compared(kept, train_words or (), config)]
    commands = _embedded(root, has_scores)
    commands += [] if kept is None else [_with_another(kept, config)]
    return [*commands, f"{shell('llava-moe', 'train', f'exp={HEADLINE}', '--cfg', 'job')}   # the 7B experiment"]


def has_scores(root: Path) -> bool:
    """Whether a run was scored."""
    return (root / "eval" / "results.json").is_file()


def _embedded(root: Path, has_scores: bool) -> list[str]:
    score = f"llava-moe eval {named('run', root)}"
    return [
        f"{score} limit=0   # all of the demo's questions" if has_scores else score,
        f"llava-moe chat {named('run', root)}",
    ]


def _own(root: Path, config: RunConfig, train_words: Sequence[str] | None) -> list[str]:
    commands = [chat_with(root, config, "a picture of its own data")]
    if train_words is not None:
        where = without(train_words, lambda key: key == "out")
        commands.append(f"{shell('llava-moe', 'data', 'preview', *where)}   # what it learned from, token by token")
        if not config.data.held_out and not config.eval.split:
            kept = without(where, lambda key: key == "data.held_out")
            apart = shell("llava-moe", "train", *kept, "data.held_out=0.1", "eval.every=100")
            commands.append(f"{apart}   # with a tenth of the images kept apart: its loss on them")
    return [*commands, benchmarks_for("it")]


def benchmarks_for(whom: str) -> str:
    """The command that lists what can score a run on data of one's own, which a file of questions can, too."""
    return f"llava-moe ls benchmark   # what can score {whom}; eval benchmarks=[FILE] asks questions of your own"


def _words_told_by(root: Path) -> list[str] | None:
    """The words that a run's ``environment.json`` says it was trained with; None where it was not trained alone."""
    path = newest_checkpoint(root).parent.parent / ENVIRONMENT
    if not path.is_file():
        return None
    command = str(read_object(path, "put it back").get("command", ""))
    # A shell of another kind wrote out what cannot be printed; nothing here reads that back.
    words = [] if "$'" in command else shlex.split(command)
    return words[2:] if words[:2] == ["llava-moe", "train"] and not is_sweep(words) else None


def chat_with(root: Path, config: RunConfig, why: str) -> str:
    """The command that talks to a run, about a picture of its own data where one is soon found."""
    words = [named("run", root)]
    if picture := next(_pictures(config), None):
        words += [named("image", picture)]
        if config.stage.template != "plain":
            words += [shell("prompt=What does this picture show?")]
    return f"llava-moe chat {' '.join(words)}" + (f"   # {why}" if why else "")


def _pictures(config: RunConfig) -> Iterator[str]:
    """Image files below the image folders of the run's sources, as far as they are soon found."""
    for source in config.data.sources.values():
        images = source.get("images")
        if isinstance(images, str):
            near = sorted(islice(_files_below(images), _MOST_ENTRIES))
            yield from (path for path in near if path.lower().endswith(PICTURES))


def _files_below(folder: str) -> Iterator[str]:
    """Files below a folder, read as they are asked for: a folder of millions is not listed for its first."""
    folders = [folder]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                else:
                    yield entry.path


def _stage_two(root: Path, words: Sequence[str]) -> str:
    """The instruction tuning that starts from a stage 1, on the same model and scale."""
    named_exp = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("exp=")]
    follows = GOES_ON.get(named_exp[-1] if named_exp else "", HEADLINE)
    gone = ("exp", "out", "init_from", "stage", "adapter", "train.max_steps", "train.epochs")
    kept = without(words, lambda key: key in gone or key.startswith(("stage.", "adapter.")))
    return (
        f"{shell('llava-moe', 'train', f'exp={follows}', *kept)} {named('init_from', root)}   # stage 2 starts from it"
    )


def _words_of_others(words: Sequence[str], checkpoint: Path, config: RunConfig) -> list[str] | None:
    """The words by which any adapter trains the same; None where its start is gone."""
    kept = without(words, lambda key: key in ("adapter", "out") or key.startswith("adapter."))
    if config.init_from is None:
        return kept
    try:
        starts = lineage(checkpoint)[1:]
    except UserError:
        return None
    if not (starts[0] / "adapter").is_dir():
        return kept
    # The newest that any adapter can start from: one that has none itself.
    fitting = next((one.parent.parent for one in starts if not (one / "adapter").is_dir()), None)
    if fitting is None and "projector" not in config.stage.learning_rates:
        return None  # its projector is the start's, and frozen: without that start it would be one of no training
    kept = without(kept, lambda key: key == "init_from")
    return kept if fitting is None else [*kept, f"init_from={as_place(fitting)}"]


def _with_another(kept: Sequence[str], config: RunConfig) -> str:
    """The same training with another adapter, in a folder of its own."""
    other, name = ("llava_mole", "LLaVA-MoLE") if _adapter_of((), config) == "lora" else ("lora", "plain LoRA")
    return f"{shell('llava-moe', 'train', *kept, f'adapter={other}')}   # the same story with {name}, to compare"


def _compared(kept: Sequence[str], words: Sequence[str], config: RunConfig) -> list[str]:
    """This adapter and another, trained by the same words and set on one page; nothing where it has no name."""
    own = _adapter_of(words, config)
    if own is None:
        return []
    adapters = ["lora", "llava_mole" if own == "lora" else own]
    measured = [] if config.data.held_out or config.eval.split else ["data.held_out=0.1"]
    kept = without(kept, lambda key: key == "data.held_out") if measured else kept
    command = shell("llava-moe", "compare", f"adapter=[{','.join(adapters)}]", *kept, *measured)
    return [f"{command}   # which adapter suits this data: both trained, one page"]


def _adapter_of(words: Sequence[str], config: RunConfig) -> str | None:
    """The adapter's name: the one that was typed, else the shipped one that the run has."""
    typed = [word.partition("=")[2] for word in words if key_of(word) == "adapter"]
    if typed:
        return typed[-1]
    target = config.adapter.get("_target_")
    shipped = [path for folder in shipped_folders() for path in sorted((folder / "adapter").glob("*.yaml"))]
    return next((path.stem for path in shipped if parse_yaml(path.read_bytes()).get("_target_") == target), None)


def write_run_report(root: Path, stages: list[Path] | None = None, train_words: Sequence[str] | None = None) -> Path:
    """Write ``report.html`` into a run's or an experiment's folder.

    Args:
        train_words: as in :func:`next_commands`; None takes those that the run was started with, where it tells them.
    """
    if train_words is None:
        train_words = _words_told_by(root)
    return report_run(root, next_commands=next_commands(root, has_scores(root), train_words), stages=stages)
