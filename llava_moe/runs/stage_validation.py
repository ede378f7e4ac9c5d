"""What a stage measures on its way: held-out records opened, benchmarks asked, ``validation.jsonl``, the best step."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from llava_moe.assemble import Assembled
from llava_moe.config.nearest_key import suggest
from llava_moe.config.settings import mixture_of
from llava_moe.data.encode import Encoder
from llava_moe.data.held_out import take
from llava_moe.data.mixture import Mixture
from llava_moe.data.readers.splits import is_read
from llava_moe.data.records import Records, Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import SourceIndex, index_source
from llava_moe.data.stream import Step, StepStream
from llava_moe.errors import LostRankError, ReportedByRankZeroError, StoppedBySignalError, UserError
from llava_moe.eval.benchmark import ALL_DOMAINS, Answer, Benchmark, ScoreRow
from llava_moe.eval.ranks import Ranks
from llava_moe.eval.run import ask_benchmark
from llava_moe.files.checkpoints import checkpoint_of, is_complete
from llava_moe.files.our_files import read_objects
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.own_questions import training_benchmarks
from llava_moe.runs.processes import Processes
from llava_moe.runs.scored_model import scored_model
from llava_moe.runs.stage_data import OpenData
from llava_moe.train.checkpoint import name_best
from llava_moe.train.engine import Engine
from llava_moe.train.log import JsonLines, StepRecord
from llava_moe.train.loss import StepSums
from llava_moe.train.objective import Objective
from llava_moe.train.rank_errors import RankErrors
from llava_moe.train.stage_log import VALIDATION
from llava_moe.train.state import RunState
from llava_moe.train.validation import HELD_OUT_LOSS, BestBy, Validation, held_out_sums, undisturbed

FILE = "validation.jsonl"
# Answers of the benchmarks asked while training, a folder a step.
FOLDER = "validation"


@dataclass(frozen=True)
class StageHeldOut:
    """Records that are measured and not trained on: a mixture of their own, one index and reader a source."""

    mixture: Mixture
    indexes: tuple[SourceIndex, ...]
    records: tuple[Records, ...]


def check_validation(config: RunConfig) -> None:
    """Refuse what can be told before training: nothing to measure, or a score that will not be measured.

    Raises:
        UserError: naming the key, and for ``eval.best`` the nearest score there is.
    """
    given = config.eval
    if not given.every:
        if given.best is not None:
            raise UserError(f"eval.best={given.best} needs validations to choose among: give eval.every=STEPS")
        if given.during:
            raise UserError(f"eval.during={given.during}: give eval.every=STEPS, the steps between two validations")
        return
    sources = mixture_of(config).sources
    has_held_out = given.split is not None or bool(config.data.held_out)
    for source in sources:
        split = given.split
        # Either way round: split=all, of the source or of the measure, takes in the other.
        if split is not None and (is_read(split, source.split) or is_read(source.split, split)):
            raise _trained_on(split, source)
    if not has_held_out and not given.during:
        there = "eval.split=val, " if any(source.split for source in sources) else ""
        raise UserError(
            f"eval.every={given.every} has nothing to measure: give {there}data.held_out=0.02 or eval.during="
        )
    if given.during and config.parallel.stage == 3 and config.parallel.engine not in ("local", "ddp"):
        raise UserError(
            "eval.during= needs whole weights on each device: choose parallel=ddp or zero2, or score afterwards"
        )
    known = [HELD_OUT_LOSS, *(f"{HELD_OUT_LOSS}.{name}" for name in mixture_of(config).domains)] if has_held_out else []
    for benchmark in _benchmarks_of(config):
        known += [f"{benchmark.name}.{name}" for name in _measure_names(benchmark)]
    if given.best is not None and given.best not in known:
        shown = ", ".join(name for name in known if name.count(".") < 2)
        near = suggest(given.best, known)
        raise UserError(f"eval.best={given.best} will not be measured{near}: there is {shown}")


def _benchmarks_of(config: RunConfig) -> list[Benchmark]:
    return training_benchmarks(config, config.eval.during)


def _measure_names(benchmark: Benchmark) -> list[str]:
    """What a benchmark measures, by its own answers to its questions."""
    answers = {}
    for question in benchmark.questions():
        text = benchmark.oracle(question)
        answers[question.id] = Answer(question.id, text, question.references, benchmark.score(question, text))
    return list(measures_of(benchmark.summarize(answers)))


def measures_of(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Measure to value over all questions, and ``<measure>.<domain>`` where a benchmark has several domains."""
    whole = [row for row in rows if row.kind is None]
    measures: dict[str, float] = {}
    for row in whole:
        tail = "" if row.domain == ALL_DOMAINS or len(whole) == 1 else f".{row.domain}"
        measures |= {f"{name}{tail}": measure.value for name, measure in row.measures.items()}
    return measures


def _trained_on(split: str, source: Source) -> UserError:
    return UserError(f"eval.split={split}: source {source.name!r} trains on it; name another split")


def open_held_out(
    config: RunConfig, data: OpenData, encoder: Encoder, processes: Processes, console: Console
) -> StageHeldOut | None:
    """The records that ``eval.split`` names, or those that ``data.held_out`` keeps out; None where neither is given.

    Of each domain ``eval.held_out_limit`` are drawn by the seed.

    Raises:
        UserError: a source has no such split, trains on records of it, or nothing of it is usable.
    """
    split, limit = config.eval.split, config.eval.held_out_limit
    if split is None and not data.mixture.held_out:
        return None
    records, indexes, sources = data.records, data.held_out, data.mixture.sources
    if split is not None:
        sources = tuple(replace(source, split=split) for source in sources)
        if processes.rank > 0:
            processes.wait()
        records = tuple(open_records(source, cache_folder()) for source in sources)
        for source, read, held in zip(sources, data.records, records, strict=True):
            # A file that is named itself is trained on whatever split its name says.
            if any(read.find(held.number(index)) is not None for index in range(len(held))):
                raise _trained_on(split, source)
        pairs = zip(sources, records, strict=True)
        indexes = tuple(index_source(source, content, encoder, cache_folder()) for source, content in pairs)
        if processes.rank == 0:
            processes.wait()
    indexes = draw(sources, indexes, limit, config.seed)
    for domain in data.mixture.domains:
        num_records = sum(len(i.rows) for s, i in zip(sources, indexes, strict=True) if s.domain == domain)
        console.print(f"  {num_records:,} held-out records of {domain} are measured", highlight=False, markup=False)
        if not num_records:
            raise UserError(
                f"data.held_out={data.mixture.held_out:g} keeps no record of domain {domain!r} apart, so its loss "
                "cannot be measured: raise it, or leave eval.every= out"
            )
    whole = tuple(replace(source, repeats=1.0, cap=None) for source in sources)
    return StageHeldOut(Mixture(whole, config.seed, max_bad_share=data.mixture.max_bad_share), indexes, records)


def draw(sources: Sequence[Source], indexes: Sequence[SourceIndex], limit: int, seed: int) -> tuple[SourceIndex, ...]:
    """At most ``limit`` records of each domain, drawn from all its sources together; 0 takes all."""
    drawn = list(indexes)
    for domain in dict.fromkeys(source.domain for source in sources):
        places = [place for place, source in enumerate(sources) if source.domain == domain]
        ends = np.cumsum([len(indexes[place].rows) for place in places])
        if not limit or ends[-1] <= limit:
            continue
        generator = np.random.default_rng([seed, zlib.crc32(domain.encode())])
        is_taken = np.zeros(ends[-1], dtype=bool)
        is_taken[generator.choice(ends[-1], limit, replace=False)] = True
        for place, part in zip(places, np.split(is_taken, ends[:-1]), strict=True):
            drawn[place] = take(indexes[place], part)
    return tuple(drawn)


class StageValidation:
    """Measures a stage's states where that is due, each once, and knows the best; all ranks call it alike."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        assembled: Assembled,
        engine: Engine,
        objective: Objective,
        held_out: StepStream | None,
        benchmarks: Sequence[Benchmark],
        ranks: Ranks,
        num_steps: int,
        state: RunState,
    ) -> None:
        self.folder, self.assembled, self.engine, self.objective = folder, assembled, engine, objective
        self.held_out, self.benchmarks, self.ranks = held_out, benchmarks, ranks
        self.every, self.num_steps = config.eval.every, num_steps
        self.best_by = None if config.eval.best is None else BestBy(config.eval.best)
        self.file: JsonLines | None = None
        known: list[Validation] = []
        standing: Validation | None = None
        if engine.rank == 0:
            self.file = JsonLines(folder / FILE, config.stage.name, state.step)
            known = read_validations(folder)
            standing = self._name_standing(known)
        known, standing = engine.gather((known, standing))[0]
        self.measured_steps = {one.step for one in known}
        self.best: Validation | None = standing

    def _name_standing(self, known: Sequence[Validation]) -> Validation | None:
        """The best of a run that goes on; a kill may have come between its checkpoint and its name."""
        if self.best_by is None:
            return None
        best = self.best_by.best_of(one for one in known if is_complete(checkpoint_of(self.folder, one.step)))
        name_best(self.folder, None if best is None else checkpoint_of(self.folder, best.step))
        return best

    def is_due(self, step: int) -> bool:
        """Whether this step is to be measured and was not."""
        return (step % self.every == 0 or step == self.num_steps) and step not in self.measured_steps

    def measure(self, step: int, meeting: RankErrors, stop_status: Callable[[], int] = lambda: 0) -> Validation:
        """Held-out loss and benchmarks of the weights as they are; the training notices nothing.

        Args:
            meeting: where ranks learn of what fails in one of them alone.
            stop_status: the exit status that a signal has asked for, 0 while none has.

        Raises:
            UserError: a benchmark's image is gone.
            ReportedByRankZeroError: the same, or held-out data that cannot be read, in another rank.
            StoppedBySignalError: a signal asked for a stop; answers so far are kept.
        """
        stop = _Stop(self.engine, step, meeting, stop_status)
        sums: StepSums | None = None
        domains: tuple[str, ...] = ()
        with undisturbed(self.engine.module):
            if self.held_out is not None:
                domains = self.held_out.mixture.domains
                with closing(self.held_out.iterate(0)) as steps:
                    sums = held_out_sums(self.engine, self.objective, stop.watched(steps), len(domains))
            benchmarks = {benchmark.name: self._ask(benchmark, step, stop) for benchmark in self.benchmarks}
        # Sums over ranks may differ in their last bit: all go by the first's.
        validation: Validation = self.engine.gather(Validation.of(step, sums, domains, benchmarks))[0]
        if self.file is not None:
            meeting.attempt(partial(self.file.write, StepRecord(dict(validation.fields))))
        self.measured_steps.add(step)
        return validation

    def is_best(self, validation: Validation) -> bool:
        """Whether it is the best so far, which it then is for those to come."""
        if self.best_by is None or not self.best_by.is_better(validation, self.best):
            return False
        self.best = validation
        return True

    def close(self) -> None:
        """Close ``validation.jsonl``."""
        if self.file is not None:
            self.file.close()

    def _ask(self, benchmark: Benchmark, step: int, stop: _Stop) -> dict[str, float]:
        model = scored_model(self.assembled, str(self.folder), ranks=self.ranks)
        try:
            result = ask_benchmark(
                benchmark,
                model.answerer,
                self.folder / FOLDER / f"step-{step:06d}",
                fingerprint=model.fingerprint,
                answered_by=model.facts,
                sets_aside=True,
                on_progress=stop.between_answers,
                ranks=self.ranks,
            )
        except LostRankError:
            raise
        except (UserError, ReportedByRankZeroError):
            # All ranks have met over it, and each has one of the two.
            stop.meeting.is_together = True
            raise
        return measures_of(result.rows)


class _Stop:
    """Ends a validation between two of its steps, where a signal asks for it, in all ranks alike."""

    def __init__(self, engine: Engine, step: int, meeting: RankErrors, stop_status: Callable[[], int]) -> None:
        self.engine, self.step, self.meeting, self.stop_status = engine, step, meeting, stop_status

    def watched(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps, up to where one is asked to stop."""
        while (step := self.meeting.agree_on(partial(next, steps, None))) is not None:
            self._end_if(self.meeting.strongest(self.stop_status()))
            yield step

    def between_answers(self, _done: int, _total: int) -> None:
        """Several ranks do not meet before each has answered its share: there the signal waits."""
        if self.engine.world == 1:
            self._end_if(self.stop_status())

    def _end_if(self, status: int) -> None:
        if status:
            raise StoppedBySignalError(f"stopped at step {self.step}, before it was measured to the end", status)


def read_validations(folder: Path) -> list[Validation]:
    """The lines of ``validation.jsonl``; none where there is no file."""
    return [Validation(one) for one in read_objects(folder / FILE, "put it back, or choose another out=", VALIDATION)]


def open_validation(
    config: RunConfig,
    folder: Path,
    assembled: Assembled,
    data: OpenData,
    stream: StepStream,
    engine: Engine,
    objective: Objective,
    processes: Processes,
    num_steps: int,
    state: RunState,
    console: Console,
) -> StageValidation | None:
    """What ``eval.every`` asks for; None where it asks for nothing.

    A stage that captions reads no question: there the benchmarks are left out, and the console says so.

    Raises:
        UserError: as :func:`open_held_out`.
    """
    if not config.eval.every:
        return None
    held_out = open_held_out(config, data, assembled.encoder, processes, console)
    steps = None
    if held_out is not None:
        steps = replace(stream, mixture=held_out.mixture, indexes=held_out.indexes, records=held_out.records)
    benchmarks = _benchmarks_of(config)
    if benchmarks and assembled.encoder.template.kind == "plain":
        console.print("  this stage captions and reads no question: eval.during waits for the next", highlight=False)
        benchmarks = []
    if steps is None and not benchmarks:
        return None
    ranks = Ranks(processes.rank, processes.world, processes.group)
    return StageValidation(config, folder, assembled, engine, objective, steps, benchmarks, ranks, num_steps, state)
