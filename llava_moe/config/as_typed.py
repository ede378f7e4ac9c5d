"""Words of the command line turned back into what the user typed, and into further commands."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from llava_moe.config.free_text import FREE_TEXT
from llava_moe.config.hydra_words import quote
from llava_moe.errors import StoppedBySignalError
from llava_moe.text.secrets import without_secrets
from llava_moe.text.shell_words import as_place, shell

# Hydra's flags that say where configurations are, with their values: a further command needs them too.
PLACE_FLAGS = ("--config-dir", "-cd", "--config-path", "-cp")
SWEEP_FLAGS = ("-m", "--multirun")
# What Hydra's grammar reads as text without quotes, and as nothing but text.
_PLAIN_ITEM = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*")
_NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "nan", "inf")


def typed_command() -> str:
    """The running command as it was typed, secrets aside, quoted for a shell: ``llava-moe train 'path=my data.json'``.

    ``cli.run`` keeps ``sys.argv`` so, whatever started the process: the script, ``python -m`` or a launcher.
    """
    return shell("llava-moe", *map(without_secrets, sys.argv[1:]))


def command_elsewhere(folder: Path) -> str:
    """The running command, for a folder of its own beside the one that it cannot have."""
    words = [word for word in sys.argv[1:] if not word.lstrip("+").startswith("out=")]
    typed = [word.partition("=")[2] for word in sys.argv[1:] if word.lstrip("+").startswith("out=")]
    root = Path(typed[-1]) if typed else folder
    root = root if root.name else Path(os.path.abspath(root))  # "." has no name to number
    number = next(number for number in count(2) if not root.with_name(f"{root.name}-{number}").exists())
    return shell("llava-moe", *map(without_secrets, words), f"out={root.with_name(f'{root.name}-{number}')}")


def command_again() -> str | None:
    """What starts the running command once more, by its launcher if it has one.

    None in all processes but the first, and where a launcher does not tell how it was called (Slurm queues again).
    """
    world, local = os.environ.get("WORLD_SIZE", "1"), os.environ.get("LOCAL_WORLD_SIZE")
    if world == "1":
        return typed_command()
    if os.environ.get("RANK", "0") != "0":
        return None
    words = [*map(without_secrets, sys.argv[1:])]
    if script := os.environ.get("LLAVA_MOE_LAUNCHER"):
        return shell(*shlex.split(script), *words[1:])
    if "TORCHELASTIC_RUN_ID" in os.environ and local == world:
        return shell("torchrun", f"--nproc-per-node={world}", "-m", "llava_moe", *words)
    return None


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """Add the command that goes on to the text of a signal or Ctrl-C that stops what stands inside."""
    try:
        yield
    except (StoppedBySignalError, KeyboardInterrupt) as error:
        if command := command_again():
            error.args = (f"{str(error) or 'interrupted; the same command begins again'}: {command}",)
        raise


def as_typed(word: str) -> str:
    """A word as the user typed it: without the quotes and the ``++`` that it was given for Hydra."""
    word = word.removeprefix("++")
    key, equals, value = word.partition("=")
    is_free = key in FREE_TEXT or key.startswith("benchmark_paths.") or key == "data"
    if not is_free or len(value) < 2 or not value.startswith("'"):
        return word
    text = re.sub(r"(\\+)$", lambda found: found[1][: len(found[1]) // 2], value[1:-1])
    text = re.sub(r"((?:\\\\)*)\\'", lambda found: found[1][: len(found[1]) // 2] + "'", text)
    text = re.sub(r"((?:\\\\)*)\\\$\{", lambda found: found[1][: len(found[1]) // 2] + "${", text)
    return f"{key}{equals}{text}"


def key_of(word: str) -> str:
    """The key of an override word; a flag is its own."""
    return word.partition("=")[0].lstrip("+~")


def set_key(word: str) -> str:
    """The key that a word sets: ``~key``, which takes one away, is left as it is."""
    return word.partition("=")[0].lstrip("+")


def without(words: Sequence[str], drop: Callable[[str], bool]) -> list[str]:
    """Typed words without the overrides whose key is to be dropped; values of flags are no overrides."""
    return [word for word, is_override in _told_apart(words) if not (is_override and drop(key_of(word)))]


def words_of_job(words: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What starts one job alone, as typed: the overrides of the job, and of all words the flags that say where to look.

    Args:
        words: as the command was given them; a sweep's have several values.
        overrides: those of this job.
    """
    flags = [word for word, is_override in _told_apart(words) if not is_override]
    kept: list[str] = []
    waiting = list(flags)
    while waiting:
        flag = waiting.pop(0)
        if flag in PLACE_FLAGS:
            kept += [flag, *waiting[:1]]
            waiting = waiting[1:]
        elif flag.partition("=")[0] in PLACE_FLAGS:
            kept.append(flag)
    return [*kept, *map(as_typed, overrides)]


def is_sweep(words: Sequence[str]) -> bool:
    """Whether the words ask for several jobs."""
    return any(word in SWEEP_FLAGS for word in words)


def listed(key: str, places: Sequence[object]) -> str:
    """``key=[a,b]`` as the command line takes a list of paths; not yet quoted for a shell."""
    return f"{key}=[{','.join(map(as_item, map(as_place, places)))}]"


def as_item(text: str) -> str:
    """Text as it stands in a list: quoted for Hydra's grammar where that would read it as something else."""
    is_plain = _PLAIN_ITEM.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if is_plain else quote(text)


def _told_apart(words: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Each word, and whether it is an override: neither a flag nor the value of one."""
    is_value = False
    for word in words:
        is_flag = word.startswith("-")
        yield word, not (is_flag or is_value)
        is_value = is_flag and word in PLACE_FLAGS
