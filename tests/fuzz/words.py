"""Command lines: the words of every command, mutated over Hydra's grammar."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from random import Random

import yaml

from tests.fuzz.case import Attempt
from tests.fuzz.commands import TINY, command, run_in, write_own_data
from tests.fuzz.texts import hostile_number, hostile_text
from tests.fuzz.tree import copy_tree

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (*TINY, "out=new"),
    "plan": TINY,
    "data check": (*TINY, "num_processes=1", "out=checked"),
    "data stats": (*TINY, "out=counted"),
    "data preview": (*TINY, "out=seen"),
    "data prepare": ("recipe=pathvqa", "downloads=pictures", "out=prepared", "num_processes=1"),
    "chat": ("run=run", "prompt=What?", "image=pictures/0.png", "max_new_tokens=2", "num_threads=1"),
    "eval": ("run=run", "benchmarks=[chartqa]", "benchmark_root=pictures", "num_threads=1"),
    "export": ("run=run", "to=nothing", "out=exported"),
    "compose": ("experts=[run,run]", *TINY, "out=composed"),
    "ls": ("run",),
    "help": ("train.warmup_ratio",),
}
# Who asks for long work gets it, and no fault is found so: the last of a key's words counts.
SHORT = ("train.max_steps=1", "train.global_batch_size=4")
KEPT_SMALL = {
    **dict.fromkeys(("train", "plan", "data check", "data stats", "data preview", "compose"), SHORT),
    "chat": ("max_new_tokens=2",),
}
FLAGS = (
    *("-m", "--multirun", "--cfg", "job", "--resolve", "--config-dir", "--config-path", "--config-name", "-cd", "-cn"),
    *("--experimental-rerun", "--run", "--info", "--hydra-help", "--shell-completion", "-sc", "--package", "-p", "-"),
    *("--", "---", "--help=1", "--version", "-1", "=", "==", "@", "."),
)
RESOLVERS = (
    "oc.env",
    "oc.decode",
    "oc.create",
    "oc.select",
    "oc.dict.keys",
    "oc.deprecated",
    "hydra",
    "now",
    "nothing",
)


class Words:
    """A command's words, one to three of them changed, taken away, doubled or added."""

    name = "words"

    def prepare(self, folder: Path) -> None:
        self._good = folder
        write_own_data(folder)
        run_in(folder, "train", *TINY, "train.max_steps=1", "out=run")
        shutil.rmtree(folder / "cache", ignore_errors=True)
        self._keys = sorted(_keys())
        self._known = sorted(_flat(yaml.safe_load((folder / "run" / "config.yaml").read_text())))
        self._groups = sorted(path.name for path in CONFIGS.iterdir() if path.is_dir())

    def draw(self, random: Random, folder: Path) -> Attempt:
        copy_tree(self._good, folder)
        name = random.choice(list(COMMANDS))
        words = list(COMMANDS[name])
        for _ in range(random.choice((1, 1, 2, 3))):
            self._change(random, words)
        words += KEPT_SMALL.get(name, ())
        if name == "eval" and not any("benchmarks=" in word for word in words):
            # The embedded benchmark is what is asked otherwise, all of it.
            words.append("benchmarks=[chartqa]")
        if name == "train" and random.random() < 0.3:
            words += ["--cfg", "job"]
        # A process is handed no NUL.
        line = [*name.split(), *(word.replace("\0", "") for word in words)]
        if random.random() < 0.03:
            line[0] = hostile_text(random, 300).replace("\0", "")
        return Attempt(command(line), _shown(line), (folder,))

    def _change(self, random: Random, words: list[str]) -> None:
        place = random.randrange(len(words)) if words else 0
        kind = random.randrange(8)
        if kind == 0 and words:
            del words[place]
        elif kind == 1:
            words.insert(place, random.choice(FLAGS))
            if random.random() < 0.3:
                words.insert(place + 1, hostile_text(random))
        elif kind == 2 and words:
            word = words[place]
            cut = random.randint(0, len(word))
            words[place] = word[:cut] + hostile_text(random, 5_000) + word[cut + random.randrange(3) :]
        elif kind == 3 and words:
            words[place] = random.choice(("+", "++", "~", "-", "--", "@")) + words[place]
        elif kind == 4 and words:
            key, _, value = words[place].partition("=")
            words[place] = f"{key}={self._value(random, value)}"
        else:
            words.append(self._word(random))

    def _word(self, random: Random) -> str:
        key = random.choice(self._keys if random.random() < 0.5 else self._known)
        if random.random() < 0.1:
            key = random.choice((*self._groups, "hydra/launcher", "hydra/sweeper", "hydra.run.dir", "hydra.searchpath"))
        if random.random() < 0.1:
            key += random.choice((".", ".a", "[0]", "@", "@a:b", "/a", " ", hostile_text(random, 300)))
        return f"{random.choice(('', '', '', '+', '++', '~'))}{key}={self._value(random, '1')}"

    def _value(self, random: Random, value: str) -> str:
        kind = random.randrange(11)
        if kind == 0:
            return str(hostile_number(random))
        if kind > 8:
            # As a person quotes it who knows how.
            return "'" + hostile_text(random, 300).replace("\\", "").replace("'", "\\'") + "'"
        if kind == 1:
            return random.choice(("", "null", "true", "[]", "{}", "''", '""', "nan", "-inf", "???", "[null]", "{a:1}"))
        if kind == 2:
            return f"${{{random.choice(RESOLVERS)}:{random.choice((value, repr(value), hostile_text(random, 50)))}}}"
        if kind == 3:
            return f"${{{random.choice(self._keys)}}}"
        if kind == 4:
            return random.choice(
                (f"choice({value},{value})", "range(1,3)", "glob(*)", f"sort({value})", f"{value},{value}", "tag(a,1)")
            )
        if kind == 5:
            opening, closing = random.choice((("[", "]"), ("{a:", "}"), ("(", ")"), ("${", "}")))
            depth = random.choice((3, 60, 1_100))
            return opening * depth + value + closing * depth
        if kind == 6:
            return random.choice("ab/1.") * random.choice((300, 5_000, 100_000))
        if kind == 7:
            return f"'{value}" if random.random() < 0.5 else f"{{{value}: {hostile_text(random, 50)}}}"
        return hostile_text(random, 5_000)


def _keys() -> set[str]:
    """Every key that a configuration file writes."""
    found = set()
    for path in CONFIGS.rglob("*.yaml"):
        group = "" if path.parent == CONFIGS else f"{path.parent.name}."
        read = yaml.safe_load(re.sub(r"\?\?\?", "null", path.read_text())) or {}
        found |= {f"{group}{key}" for key in _flat(read)}
    return found


def _flat(node: object, before: str = "") -> set[str]:
    if not isinstance(node, dict):
        return set()
    here = {f"{before}{key}" for key in node if key != "defaults"}
    return here | {one for key, value in node.items() for one in _flat(value, f"{before}{key}.")}


def _shown(line: list[str]) -> str:
    text = " ".join(shlex.quote(word if len(word) < 300 else f"{word[:60]}...({len(word)} letters)") for word in line)
    return ascii(text)[1:-1]
