"""What is measured of every run of a comparison: held-out losses, and scores of the benchmarks that it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llava_moe.config.as_typed import listed
from llava_moe.errors import UserError
from llava_moe.eval.question_hash import question_hashes
from llava_moe.eval.tasks import called, is_own
from llava_moe.grid.card import read_card, write_card
from llava_moe.grid.cell import Grid, Words
from llava_moe.grid.measured import Measures, Score
from llava_moe.run_config import RunConfig
from llava_moe.runs.named_files import know_benchmarks
from llava_moe.runs.own_questions import images_word, training_benchmarks
from llava_moe.runs.run_names import digest

MEASURE = "llava_moe.commands.measure_items"
DEMO = "demo"


@dataclass(frozen=True)
class Scoring:
    """What is measured.

    Attributes:
        benchmarks: names, and files of one's own questions, as ``benchmarks=`` takes them.
        scores: what stands for a domain of the demo's questions, or for a benchmark.
        words: of ``llava-moe eval`` but for ``run=`` and ``limit=``; empty where nothing is asked.
        measured: the commands that look at a finished run, in order, as a cell has them.
    """

    benchmarks: tuple[str, ...]
    scores: Mapping[str, Score]
    words: Words
    measured: tuple[Words, ...]


def scoring_of(config: RunConfig, benchmarks: Sequence[str], domains: Sequence[str]) -> Scoring:
    """Look the benchmarks up; files of one's own are read for what they ask now.

    Args:
        config: of a last stage.
        domains: of all runs.

    Raises:
        UserError: there is no such benchmark, a file of questions cannot be used, or is called as a domain is.
    """
    know_benchmarks(benchmarks)
    opened = training_benchmarks(config, [word for word in benchmarks if is_own(word)])
    own = {one.name: (one.facts.content, digest(*question_hashes(one.questions()).values())) for one in opened}
    # The demo's headline: closed questions, by domain.
    scores = {domain: Score(DEMO, "exact_match", closed=True) for domain in domains if DEMO in benchmarks}
    for word in benchmarks:
        name = called(word)
        if name in scores:
            raise UserError(f"eval.benchmarks: {word}: its scores would be called {name}, as a domain is: rename it")
        if name != DEMO:
            content, shown = own.get(name, ("", ""))
            scores[name] = Score(name, content=content, shown=shown)
    images = images_word("images", config.eval.images, benchmarks)
    words = ("eval", listed("benchmarks", benchmarks), *images) if benchmarks else ()
    limit = config.eval.limit
    asking = ((*words, *(() if limit is None else (f"limit={limit}",))),) if words else ()
    measures = Measures(tuple(domains), None, scores, True, config.eval.held_out_limit)
    return Scoring(tuple(benchmarks), scores, words, (*asking, (MEASURE, measures.as_word())))


def measure_changed_again(grid: Grid, folder: Path) -> None:
    """Of runs that were measured by what a file of one's own asked or showed before, take the measures away.

    They are scored again then, and measured; answers to questions that stayed stand.
    """
    for cell in grid.cells:
        card = read_card(folder, cell.name)
        if card is not None and any(one[0] == MEASURE and one not in cell.measured for one in card.measured):
            write_card(folder, replace(card, measured=()))
