"""One benchmark a file, found by existing: a module here that has ``open_benchmark(limit, seed)`` is a benchmark."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Benchmark


def benchmark_names() -> list[str]:
    """Names of all benchmarks, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))


def benchmark_summaries() -> dict[str, str]:
    """Name -> first line of its file's docstring; nothing is imported."""
    folder = Path(__file__).parent
    texts = {name: ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) for name in benchmark_names()}
    return {name: (text or "").split("\n")[0].partition(": ")[2].rstrip(".") for name, text in texts.items()}


def open_benchmark(name: str, limit: int | None = None, seed: int = 0) -> Benchmark:
    """Open a benchmark by name.

    Args:
        limit: questions of each kind; None takes the benchmark's own number.
        seed: of whatever the benchmark draws.

    Raises:
        UserError: there is no such benchmark, or its data is not there.
    """
    if name not in benchmark_names():
        raise UserError(f"benchmarks: {name} does not exist; there are {', '.join(benchmark_names())}")
    benchmark: Benchmark = importlib.import_module(f"{__name__}.{name}").open_benchmark(limit, seed)
    return benchmark
