"""Questions asked beside their own image and again beside another: how they are summed up, and scored one by one.

The headline counts the pairs that another image carries too, so that three scores are of the same questions: with the
right image, with the other one, and by the most frequent answer. Where no pair is asked twice it counts all pairs, and
has no score of another image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from llava_moe.eval.baselines import AskedPair, MajorityAnswers, twin_id
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Measure, ScoreRow
from llava_moe.eval.intervals import mean_of, paired_difference
from llava_moe.eval.metrics import exact_match

COLUMNS = ("exact_match", "other_image", "majority_answer", "gap", "gap_over_majority")
EXACT_MATCH_ALL = "exact_match_all"


@dataclass(frozen=True)
class ImageSwapPairs:
    """Pairs, those whose images are shown beside them instead, and what guessing answers.

    Attributes:
        others: pair id to the pair whose images its question is asked beside again.
    """

    pairs: tuple[AskedPair, ...]
    others: Mapping[str, AskedPair]
    majority: MajorityAnswers

    def summarize(self, answers: Mapping[str, Answer], beside: Collection[str]) -> tuple[ScoreRow, ...]:
        """Rows of every domain, of all together, then of every kind; a domain's headline counts closed questions.

        Args:
            answers: to every pair, and to every question beside another image, by question id.
            beside: measures other than the headline's that are of all domains together too.
        """
        domains: dict[str, list[AskedPair]] = defaultdict(list)
        kinds: dict[tuple[str, str, bool], list[AskedPair]] = defaultdict(list)
        for pair in self.pairs:
            domains[pair.domain].append(pair)
            kinds[pair.domain, pair.kind, pair.closed].append(pair)
        named = {domain: pairs for domain, pairs in domains.items() if domain != ALL_DOMAINS}
        rows = [self._domain_row(domain, pairs, answers) for domain, pairs in named.items()]
        whole = self._domain_row(ALL_DOMAINS, self.pairs, answers)
        kept = {name: one for name, one in whole.measures.items() if name in COLUMNS or name in beside}
        rows.append(ScoreRow(ALL_DOMAINS, None, None, kept))
        for (domain, kind, closed), pairs in sorted(kinds.items()):
            if measures := self._headline(pairs, answers):
                rows.append(ScoreRow(domain, kind, closed, measures))
        return tuple(rows)

    def _domain_row(self, domain: str, pairs: Sequence[AskedPair], answers: Mapping[str, Answer]) -> ScoreRow:
        measures = self._headline([pair for pair in pairs if pair.closed or not self.others], answers)
        by_metric: dict[str, list[float]] = defaultdict(list)
        for pair in pairs:
            for metric, score in answers[pair.id].score.items():
                by_metric[EXACT_MATCH_ALL if metric == "exact_match" else metric].append(score)
        if not self.others:
            del by_metric[EXACT_MATCH_ALL]  # the headline is of all questions already
        return ScoreRow(domain, None, None, measures | {name: mean_of(scores) for name, scores in by_metric.items()})

    def _headline(self, pairs: Sequence[AskedPair], answers: Mapping[str, Answer]) -> dict[str, Measure]:
        compared = [pair for pair in pairs if pair.id in self.others or not self.others]
        if not compared:
            return {}
        scored = [self._scores(pair, answers) for pair in compared]
        columns = {name: [one[name] for one in scored] for name in scored[0]}
        right = columns["exact_match"]
        measures = {name: mean_of(column) for name, column in columns.items()}
        if "other_image" in columns:
            measures["gap"] = paired_difference(right, columns["other_image"])
        return measures | {"gap_over_majority": paired_difference(right, columns["majority_answer"])}

    def _scores(self, pair: AskedPair, answers: Mapping[str, Answer]) -> dict[str, float]:
        found = {"exact_match": answers[pair.id].score["exact_match"]}
        if pair.id in self.others:
            found["other_image"] = answers[twin_id(pair, self.others[pair.id])].score["exact_match"]
        return found | {"majority_answer": exact_match(self.majority.answer(pair), pair.references)}

    def scores_by_question(self, ids: Sequence[str], answers: Mapping[str, Answer]) -> list[Mapping[str, float]]:
        """The measures question by question: those of the headline where it counts the question and both are answered.

        Args:
            ids: of pairs.
        """
        rows: list[Mapping[str, float]] = []
        for name in ids:
            pair, score = self._by_id[name], dict(answers[name].score)
            right, other = score.pop("exact_match"), self.others.get(name)
            if self.others:
                score[EXACT_MATCH_ALL] = right
            is_answered = other is not None and twin_id(pair, other) in answers
            if (pair.closed and is_answered) or not self.others:
                score |= self._scores(pair, answers)
                if other is not None:
                    score["gap"] = right - score["other_image"]
                score["gap_over_majority"] = right - score["majority_answer"]
            rows.append(score)
        return rows

    @cached_property
    def _by_id(self) -> dict[str, AskedPair]:
        return {pair.id: pair for pair in self.pairs}
