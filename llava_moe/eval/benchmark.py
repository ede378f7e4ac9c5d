"""What a benchmark is: questions about images, a score for each answer, and a summary by domain and kind.

A benchmark is one file in ``llava_moe/eval/tasks/``, or made of a file of the user's (``own/``): it yields
:class:`Question`, scores one prediction at a time and sums up. It knows no model; ``run.py`` asks and writes,
``table.py`` and the report show a :class:`BenchmarkResult`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llava_moe.data.conversation import ImageRef, Turn

ALL_DOMAINS = "all"


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn from the model.

    Attributes:
        temperature: 0 takes the likeliest token each time; above 0 the logits are divided by it and sampled from.
        top_p: samples from the fewest tokens that hold this much probability together; 1 takes all.
        repetition_penalty: a token that the answer already holds has its logit divided by this (multiplied where it is
            negative); the prompt's tokens do not count. 1 changes nothing.
        seed: of the sampling; an answer depends on it and on its question alone, not on the batch.
        stop: texts that end an answer, themselves left out of it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


GREEDY = Decoding()


@dataclass(frozen=True)
class Question:
    """One question, asked alone.

    ``prompt`` holds no image mark: the images come before it. ``closed`` says that the answer is one of few.
    ``max_new_tokens`` counts the end of sequence too. ``system`` is the sentence before the question; None is the one
    that the model was trained with. All questions of a benchmark share their decoding. ``turns``: where there is more
    to ask than that, a conversation with ``<image>`` where each image stands; its last turn is the question, and
    ``prompt`` is that turn for people.
    """

    id: str
    images: tuple[ImageRef, ...]
    prompt: str
    references: tuple[str, ...]
    domain: str
    kind: str
    closed: bool
    max_new_tokens: int = 16
    decoding: Decoding = GREEDY
    system: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Facts:
    """What a score cannot be compared without; it stands in every result file.

    Attributes:
        protocol: the preset that wording, decoding and scorer come from.
        prompt: the wording, with the places of a question's parts in braces and the protocol's prefix in front.
        wording: where it is from.
        system: the sentence before the question; None: the model's own.
        decoding, max_new_tokens: how answers are drawn, and the longest one.
        scorer: which of the scorers in use.
        data: the variant of the data: split, numbers of questions, what is known of it.
        num_questions: asked, rotations and other copies included.
        domain: ``general``, ``documents`` or ``medical``, or ``all`` of them.
        place: the folder, file or address that was read; "" for what the package carries.
        seed, limit: of the draw; a limit of None asks the benchmark's own number.
        draw: what a limit left of the questions, in words; "" where it left all, or there was none.
        content: of a file of the user's, 16 hex digits over what it asks; "" for a benchmark that has a name.
        images: of such a file, the folder of its images where the user named it; "" where it was found.
    """

    protocol: str
    prompt: str
    wording: str
    system: str | None
    decoding: Decoding
    max_new_tokens: int
    scorer: str
    data: str
    num_questions: int
    domain: str
    place: str = ""
    seed: int = 0
    limit: int | None = None
    draw: str = ""
    content: str = ""
    images: str = ""

    @property
    def partial(self) -> str:
        """The draw for a title: ``limit=3: 12 of 2,072 questions``; "" where there is none."""
        return self.draw.partition(" (")[0]


def draw_in_words(limit: int | None, num_kinds: int, num_asked: int, num_all: int, *, grouped: bool = False) -> str:
    """What a limit leaves of a benchmark's questions; "" where it leaves all.

    Args:
        limit: questions of each kind; None or 0 for no limit.
        num_kinds: sorts of questions that were drawn from.
        num_asked, num_all: questions drawn, and those there are.
        grouped: questions that belong together, such as the rotations of one, count as one.
    """
    if not limit or num_asked == num_all:
        return ""
    most = f"{limit}" if grouped or num_asked == limit * num_kinds else f"up to {limit}"
    each = f"{most} of each of {num_kinds:,} kinds" if num_kinds > 1 else f"{most} of one kind"
    together = ", what belongs together counting as one" if grouped else ""
    return f"limit={limit}: {num_asked:,} of {num_all:,} questions ({each}{together})"


@dataclass(frozen=True)
class Expected:
    """What the measures of all questions together must be.

    ``oracle``: where each answer is the benchmark's own; ``empty``: where each is empty. A measure that is not named
    is 1 for the oracle and 0 for empty answers.
    """

    oracle: Mapping[str, float]
    empty: Mapping[str, float]


ONE_AND_ZERO = Expected({}, {})


@dataclass(frozen=True)
class Submission:
    """A file for an evaluation server, written to ``eval/<name>``."""

    name: str
    text: str


@dataclass(frozen=True)
class Measure:
    """A mean over ``num_questions`` questions, 0..1 unless the metric says otherwise, with a 95 % interval if known."""

    value: float
    num_questions: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """The measures of one domain (``kind`` None), of one kind of question in it, or of :data:`ALL_DOMAINS` together."""

    domain: str
    kind: str | None
    closed: bool | None
    measures: Mapping[str, Measure]


@dataclass(frozen=True)
class ModelFacts:
    """Who answered, and how it was asked; it stands in every result file.

    Attributes:
        source: the run, checkpoint or address, as it was given.
        template: what wrote the prompts: ``v1``, ``chat template of ...`` or ``the server's own``.
        images: ``pad`` or ``crop``, as :class:`~llava_moe.data.images.transform.ImageTransform` has it, or
            ``the server's own``.
        dtype: of the weights, or ``the server's own``.
        batch_size: questions asked together.
        num_processes: processes that shared the questions.
        adapter: folder of a PEFT adapter on the source; "": none beside what the source holds.
    """

    source: str
    template: str
    images: str
    dtype: str
    batch_size: int = 1
    num_processes: int = 1
    adapter: str = ""


@dataclass(frozen=True)
class BenchmarkResult:
    """What ``eval/<benchmark>.json`` holds.

    ``columns`` are the measures of the headline table in order; other measures of a row are the papers' metrics.
    ``facts`` and ``answered_by`` are None in files of an earlier version.
    """

    benchmark: str
    model: str
    columns: tuple[str, ...]
    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    facts: Facts | None = None
    answered_by: ModelFacts | None = None

    def row(self, domain: str, kind: str | None = None) -> ScoreRow:
        """The row of a domain or of one of its kinds.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.domain, row.kind) == (domain, kind):
                return row
        raise KeyError((domain, kind))

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have a row, in order, without :data:`ALL_DOMAINS`."""
        return tuple(row.domain for row in self.rows if row.kind is None and row.domain != ALL_DOMAINS)


@dataclass(frozen=True)
class Answer:
    """One line of ``eval/<benchmark>.answers.jsonl``; ``asked`` hashes what was asked, ``model`` is the fingerprint."""

    question_id: str
    prediction: str
    references: tuple[str, ...]
    score: Mapping[str, float]
    asked: str = ""
    model: str = ""


class Benchmark(Protocol):
    """What ``run.run_benchmark`` needs of a benchmark."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def facts(self) -> Facts: ...

    @property
    def expected(self) -> Expected: ...

    def oracle(self, question: Question) -> str:
        """The answer that should score highest."""
        ...

    def questions(self) -> Sequence[Question]:
        """All questions, always the same and in the same order."""
        ...

    def score(self, question: Question, prediction: str) -> dict[str, float]:
        """Metric name to score of one raw prediction."""
        ...

    def summarize(self, answers: Mapping[str, Answer]) -> tuple[ScoreRow, ...]:
        """Rows from the answers to every question, keyed by question id."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Sentences a reader of the table needs: what was left out, what the columns mean."""
        ...

    def submission(self, answers: Mapping[str, Answer]) -> Submission | None:
        """The file that an evaluation server takes, where the answers are scored nowhere else."""
        ...
