"""Benchmarks, one module each, registered by being here; those of installed packages; files of the user's own.

A module here is a benchmark if it has ``BENCHMARK`` (:class:`~llava_moe.eval.published_benchmark.Published`: data from
a place) or ``open_benchmark(limit, seed)`` (data of its own). So is one that an installed package offers
(``llava_moe.benchmarks``).
"""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Benchmark, BenchmarkResult
from llava_moe.eval.own.benchmark import open_own
from llava_moe.eval.own.names import TAKEN, is_file, name_of_file
from llava_moe.eval.protocol import DEFAULT_PROTOCOL, find_protocol
from llava_moe.eval.published_benchmark import Published, open_published
from llava_moe.plugins import Plugin, lacking, plugins
from llava_moe.text.did_you_mean import did_you_mean

DEFAULT_ROOT = "data/benchmarks"


@dataclass(frozen=True)
class Places:
    """Where benchmarks' data lies.

    Attributes:
        root: a folder with a folder for each benchmark, named as it; None: ``LLAVA_MOE_BENCHMARKS``, or
            ``data/benchmarks`` below the current folder.
        paths: benchmark to folder, file, glob or address; goes before the root.
        cache: folder that Parquet and TSV files are laid out in; None: ``LLAVA_MOE_CACHE``, or the user's cache folder.
        images: the folder of images of files of the user's own, or one for each by its name; None: near the file.
    """

    root: str | None = None
    paths: Mapping[str, str] = field(default_factory=dict)
    cache: Path | None = None
    images: str | Mapping[str, str] | None = None

    def images_of(self, name: str) -> str | None:
        """The folder of the images of one file of the user's own, where it was named."""
        return self.images.get(name) if isinstance(self.images, Mapping) else self.images

    def of(self, name: str, folder: str | None) -> str:
        """The place of one benchmark; ``folder`` is what it is called below the root."""
        named = self.paths.get(name) or self.paths.get(folder or name)
        root = self.root or os.environ.get("LLAVA_MOE_BENCHMARKS") or DEFAULT_ROOT
        return named or str(Path(root).expanduser() / (folder or name))

    def cache_folder(self) -> Path:
        """The cache."""
        home = os.environ.get("LLAVA_MOE_CACHE") or f"{os.environ.get('XDG_CACHE_HOME', '~/.cache')}/llava_moe"
        return self.cache or Path(home).expanduser()


def benchmark_names() -> list[str]:
    """Names of all benchmarks, in alphabetical order."""
    return sorted([*_ours(), *_others()])


def _ours() -> list[str]:
    return [module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])]


def _others() -> Mapping[str, Plugin]:
    """The benchmarks of installed packages.

    Raises:
        UserError: one has the name of ours.
    """
    others = plugins("benchmarks")
    for name in others.keys() & set(_ours()):
        raise others[name].refused("has the name of one of llava-moe's own")
    for name in others.keys() & {*TAKEN}:
        raise others[name].refused(f"has a name that means another thing beside the scores ({name})")
    return others


def _module(name: str) -> Any:
    """A benchmark's module.

    Raises:
        UserError: that of an installed package does not load, or is no benchmark.
    """
    others = _others()
    if name not in others:
        return importlib.import_module(f"{__name__}.{name}")
    module = others[name].load()
    if not isinstance(getattr(module, "BENCHMARK", None), Published) and lacking(module, {"open_benchmark": None}):
        told = "has neither BENCHMARK nor open_benchmark(); docs/contributing/a_benchmark.md says what a benchmark has"
        raise others[name].refused(told)
    return module


def benchmark_summaries() -> dict[str, str]:
    """Name -> first line of its file's docstring; nothing is imported."""
    folder = Path(__file__).parent
    texts = {name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) for name in _ours()}
    told = {name: (text or "").split("\n")[0].partition(": ")[2].rstrip(".") for name, text in texts.items()}
    return told | {name: f"of the installed package {one.package}" for name, one in _others().items()}


def open_benchmark(
    name: str,
    limit: int | None = None,
    seed: int = 0,
    *,
    protocol: str = DEFAULT_PROTOCOL.name,
    places: Places | None = None,
) -> Benchmark:
    """Open a benchmark by name, or one's own by the path of its file.

    Args:
        limit: questions of each kind; None takes the benchmark's own number, 0 takes all.
        seed: of whatever the benchmark draws.
        protocol: the preset that words questions, draws answers and scores them.
        places: where data lies.

    Raises:
        UserError: there is no such benchmark or protocol, or its data is missing, damaged or incomplete.
    """
    preset, places = find_protocol(protocol), places or Places()
    expect_known(name, "benchmarks")
    for named in places.paths:
        _expect_name(named, "benchmark_paths")
    if is_own(name):
        return open_own(name, places.images_of(name_of_file(name)), preset, limit, seed)
    module = _module(name)
    if not isinstance(getattr(module, "BENCHMARK", None), Published):
        own: Benchmark = replace(module.open_benchmark(limit, seed), protocol=preset, limit=limit, seed=seed)
        return own
    page: Published = module.BENCHMARK
    return open_published(name, page, places.of(name, page.folder), places.cache_folder(), preset, limit or None, seed)


def is_own(word: str) -> bool:
    """Whether a word that stands for a benchmark is the path of a file of the user's."""
    return word not in benchmark_names() and is_file(word)


def called(word: str) -> str:
    """What the scores of a benchmark are called, which is given by its name or by the path of its file.

    Raises:
        UserError: the file's name is none that scores can have.
    """
    return name_of_file(word) if is_own(word) else word


def expect_known(word: str, key: str) -> None:
    """Refuse a word that is neither a benchmark's name nor the path of a file.

    Raises:
        UserError: with the nearest name; ``key`` says where it was given.
    """
    if is_own(word):
        name_of_file(word)
    else:
        _expect_name(word, key)


def _expect_name(name: str, key: str) -> None:
    known = benchmark_names()
    if name not in known:
        guess = did_you_mean(name, known, cutoff=0.5)
        own = "" if key == "benchmark_paths" else "; a file of your own is given by its path, such as questions.jsonl"
        raise UserError(f"{key}: {name} does not exist{guess}; there are {', '.join(known)}{own}")


def reopen_benchmark(result: BenchmarkResult) -> Benchmark:
    """The benchmark of a result with all of its questions, as they were put.

    Raises:
        UserError: its data is no longer where it was.
    """
    facts = result.facts
    if facts is None:
        return open_benchmark(result.benchmark, limit=0)
    if facts.content:
        return open_own(facts.place, facts.images or None, find_protocol(facts.protocol), None, facts.seed)
    places = Places(paths={result.benchmark: facts.place} if facts.place else {})
    return open_benchmark(result.benchmark, 0, facts.seed, protocol=facts.protocol, places=places)
