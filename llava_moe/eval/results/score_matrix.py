"""One benchmark's answers as numbers: per question its domain, its cluster of questions, and every score of every run.

Letters of shapes: N questions, G clusters (an image with all of its questions), S strata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llava_moe.data.conversation import image_identity
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark
from llava_moe.eval.own.benchmark import OwnBenchmark
from llava_moe.eval.published_benchmark import PublishedBenchmark
from llava_moe.eval.tasks.demo import DemoBenchmark


@dataclass(frozen=True)
class ScoreMatrix:
    """The questions that count, in order.

    Attributes:
        ids: the questions' ids; questions beside another image are not among them but scores of theirs.
        domains: of each question; all of them are :data:`ALL_DOMAINS` where the benchmark's data is not at hand.
        groups: questions with the same are scored together: rotations, the two questions about an image.
        is_yes_N: bool, the first reference is yes.
        clusters_N: int, questions about the same image, or of the same group, are one cluster; 0..G-1.
        strata_G: int, clusters whose questions lie in the same domains; 0..S-1.
    """

    ids: tuple[str, ...]
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    is_yes_N: np.ndarray
    clusters_N: np.ndarray
    strata_G: np.ndarray

    def inside(self, domain: str) -> np.ndarray:
        """bool [N]: the questions of a domain."""
        if domain == ALL_DOMAINS:
            return np.ones(len(self.ids), dtype=bool)
        return np.asarray([own == domain for own in self.domains], dtype=bool)


def make_score_matrix(benchmark: Benchmark | None, answers: Mapping[str, Answer]) -> ScoreMatrix:
    """The sheet of answered questions, in their order.

    Without a benchmark every question is a cluster of its own and no domain is known.
    """
    ids = tuple(name for name in answers if not is_twin(name))
    if benchmark is None:
        domains, groups, keys = (ALL_DOMAINS,) * len(ids), ids, [{f"question {name}"} for name in ids]
    else:
        questions = {question.id: question for question in benchmark.questions()}
        items = benchmark.items if isinstance(benchmark, PublishedBenchmark) else {}
        domains = tuple(questions[name].domain for name in ids)
        groups = tuple(items[name].group or name if name in items else name for name in ids)
        keys = [
            {f"image {image_identity(image)}" for image in questions[name].images} | {f"group {domain}/{group}"}
            for name, domain, group in zip(ids, domains, groups, strict=True)
        ]
    clusters_N = _join(keys)
    is_yes_N = np.asarray([(answers[name].references or ("",))[0].strip().lower() == "yes" for name in ids], dtype=bool)
    return ScoreMatrix(ids, domains, groups, is_yes_N, clusters_N, _strata(domains, clusters_N))


def _join(keys: Sequence[set[str]]) -> np.ndarray:
    """int [N]: the number of each set's cluster; sets that share a key, directly or over others, are one."""
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    first: dict[str, int] = {}
    for place, of_question in enumerate(keys):
        for key in of_question:
            one, other = root(first.setdefault(key, place)), root(place)
            parent[max(one, other)] = min(one, other)
    roots = np.asarray([root(place) for place in range(len(keys))], dtype=np.int64)
    return np.unique(roots, return_inverse=True)[1].reshape(-1)


def _strata(domains: Sequence[str], clusters_N: np.ndarray) -> np.ndarray:
    reached: list[set[str]] = [set() for _ in range(int(clusters_N.max(initial=-1)) + 1)]
    for domain, cluster in zip(domains, clusters_N.tolist(), strict=True):
        reached[cluster].add(domain)
    numbers: dict[frozenset[str], int] = {}
    return np.asarray([numbers.setdefault(frozenset(one), len(numbers)) for one in reached], dtype=np.int64)


def scores_of(benchmark: Benchmark | None, sheet: ScoreMatrix, answers: Mapping[str, Answer]) -> dict[str, np.ndarray]:
    """Score name to float64 [N], NaN where a question has no such score."""
    if isinstance(benchmark, DemoBenchmark | OwnBenchmark):
        rows = benchmark.asked_twice.scores_by_question(sheet.ids, answers)
    else:
        rows = [answers[name].score for name in sheet.ids]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.asarray([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
