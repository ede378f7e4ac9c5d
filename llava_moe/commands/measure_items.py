"""What a run does on each held-out record and question: ``measured.json`` in its folder, for paired effects.

Run as a program, a cell's last command: ``python -m llava_moe.commands.measure_items run=FOLDER measure=JSON``.

Shape suffixes: T tokens of a packed row, N supervised tokens, V vocabulary, S segments (records) of the row.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_moe.assemble import Assembled, read_config, restore
from llava_moe.config.settings import mixture_of
from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Example
from llava_moe.data.held_out import HeldOutSource
from llava_moe.data.readers.splits import is_read
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Answer, BenchmarkResult
from llava_moe.eval.files import answers_path, read_answers, read_result
from llava_moe.eval.results.score_matrix import make_score_matrix
from llava_moe.eval.tasks import reopen_benchmark
from llava_moe.files.atomic_write import write_atomically
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.our_files import read_objects
from llava_moe.grid.measured import FILE, Measures
from llava_moe.model import prepare_stage
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.held_out_sources import held_out_sources
from llava_moe.runs.stage import trainable_parts
from llava_moe.runs.stage_validation import draw
from llava_moe.terminal.console import VisibleConsole
from llava_moe.train.loss import cross_entropy_N, targets_of

_NUM_POINTS = 24
"""Of a curve."""
_STEP = {"step": int, "domains": {str: {"loss": (int, float, type(None)), "supervised_tokens": int}}}


@torch.no_grad()
def nats_of(assembled: Assembled, batch: Batch) -> torch.Tensor:
    """Cross-entropy in nats of each record of a packed row, summed over its supervised tokens: float64 [S]."""
    targets = targets_of(batch)
    # What decides by example reads the prompt alone.
    assembled.attached.mark_prompts(batch.labels)
    output = assembled.model(**assembled.inputs_of(batch), logits_to_keep=targets.positions_N)
    segments_T = torch.arange(len(batch.segment_lengths)).repeat_interleave(torch.tensor(batch.segment_lengths))
    sums_S = torch.zeros(len(batch.segment_lengths), dtype=torch.float64)
    losses_N = cross_entropy_N(output.logits[0], targets)
    return sums_S.index_add_(0, segments_T[targets.positions_N.cpu() + 1], losses_N.double().cpu())


class MeasuredHeldOut:
    """The held-out records of some domains, measured one by one.

    Attributes:
        flops_per_token: floating-point operations of a forward pass of the first row, over its tokens, as torch counts
            them: what was executed, whatever a kernel could have left out.
    """

    def __init__(self, run: Path, assembled: Assembled, measures: Measures) -> None:
        self.run, self.assembled, self.measures = run, assembled, measures
        self.flops_per_token: float | None = None

    def records(self) -> list[dict[str, Any]]:
        """Each record in the order of the sources: its key, domain, supervised tokens and nats.

        Raises:
            UserError: a source trains on that split, or has none of it.
        """
        split = self.measures.split
        if self.measures.held_out:
            return self._own_records()
        if split is None:
            return []
        config = read_config(self.run)
        told: list[dict[str, Any]] = []
        for source in mixture_of(config.changed(domains=list(self.measures.domains))).sources:
            if is_read(split, source.split) or is_read(source.split, split):
                raise UserError(f"split={split}: source {source.name!r} trains on it; name another split")
            told += self._of_source(source.domain, examples_of(replace(source, split=split), self.assembled), config)
        return told

    def _own_records(self) -> list[dict[str, Any]]:
        """Records that the run kept apart, a domain's drawn alike whatever the run's seed is.

        Domains that its data do not hold are left out: runs on other data may stand beside it.

        Raises:
            UserError: it kept none apart, or none of a domain that it learns from.
        """
        config, domains = read_config(self.run), self._measured_domains()
        found, words = self._sources(config)
        own = {one.source.domain for one in found}
        if others := [domain for domain in domains if domain not in own]:
            # A run of some domains of its data is measured on those of the others, too. Of its own it is by its own
            # words: images that domains share would fall on another side, and it may have trained on them.
            joint, _ = self._sources(config.changed(domains=[*domains]))
            found += [one for one in joint if one.source.domain in others]
        sources = [one.source for one in found]
        told: list[dict[str, Any]] = []
        for one, index in zip(found, draw(sources, [one.index for one in found], self.measures.limit, 0), strict=True):
            told += self._of_source(one.source.domain, _drawn(replace(one, index=index), self.assembled), config)
        measured = {one["domain"] for one in told}
        if missing := [domain for domain in domains if domain not in measured]:
            raise UserError(
                f"{self.run}: no record of {missing[0]} was held out of training ({words}), so its loss is not known"
            )
        return told

    def _measured_domains(self) -> tuple[str, ...]:
        """Those that are asked for and that the run's data hold, whether it trained on them or not."""
        config = read_config(self.run)
        held = mixture_of(config.changed(domains=None) if config.data.follows_domains else config).domains
        return tuple(domain for domain in self.measures.domains if domain in held)

    def _sources(self, config: RunConfig) -> tuple[list[HeldOutSource], str]:
        device = next(self.assembled.model.parameters()).device
        return held_out_sources(config, self.assembled.encoder, None, device, VisibleConsole(quiet=True))

    def _of_source(self, domain: str, examples: Iterator[Example], config: RunConfig) -> Iterator[dict[str, Any]]:
        for row in rows_of(examples, config.train.tokens_per_micro_batch):
            for example, nats in zip(row, self._nats(row), strict=True):
                tokens = int((example.labels[1:] != -100).sum())
                yield {"key": example.key[:16], "domain": domain, "tokens": tokens, "nats": nats}

    def _nats(self, row: Sequence[Example]) -> list[float]:
        batch = collate_row(self.assembled.encoder, row, range(len(row)))
        batch = batch.to(next(self.assembled.model.parameters()).device)
        if self.flops_per_token is not None:
            return nats_of(self.assembled, batch).tolist()
        with FlopCounterMode(display=False) as counter:
            nats = nats_of(self.assembled, batch).tolist()
        self.flops_per_token = counter.get_total_flops() / sum(batch.segment_lengths)
        return nats


def examples_of(source: Source, assembled: Assembled) -> Iterator[Example]:
    """The records of a source as training encodes them, without those that it would leave out."""
    records = open_records(source, cache_folder())
    for number in range(len(records)):
        try:
            yield assembled.encoder.encode(records[number], records.image_root, 0, source.value_range)
        except BadRecord:
            continue


def _drawn(one: HeldOutSource, assembled: Assembled) -> Iterator[Example]:
    for row in one.index.rows.tolist():
        try:
            yield assembled.encoder.encode(one.records[row], one.records.image_root, 0, one.source.value_range)
        except BadRecord:
            continue


def rows_of(examples: Iterator[Example], length: int) -> Iterator[list[Example]]:
    """Examples in their order, as many a row as fit."""
    row: list[Example] = []
    for example in examples:
        if row and sum(len(one.input_ids) for one in (*row, example)) > length:
            yield row
            row = []
        row.append(example)
    if row:
        yield row


def questions_of(run: Path, measures: Measures) -> list[dict[str, Any]]:
    """Each question that counts for a domain: its id, domain, the image it hangs on, and its score.

    Raises:
        UserError: the run was not scored, or a benchmark has no such question of a domain.
    """
    told = []
    for domain, score in measures.scores.items():
        result = read_result(run, score.benchmark)
        if result is None:
            raise UserError(f"{run} was not scored on {score.benchmark}: run llava-moe eval first")
        if score.content and (result.facts is None or result.facts.content != score.content):
            raise UserError(f"{score.benchmark} has changed while {run} was scored: run the same command again")
        opened = reopen_benchmark(result)
        # Behind those of the result stand answers to questions that it did not ask.
        num_asked = None if result.facts is None else result.facts.num_questions
        drawn = read_answers(answers_path(run, score.benchmark))[:num_asked]
        answers = {answer.question_id: answer for answer in drawn}
        closed = {question.id for question in opened.questions() if question.closed}
        counted = {question.id for question in opened.questions() if not score.kinds or question.kind in score.kinds}
        sheet = make_score_matrix(opened, answers)
        # A benchmark that is called as a domain of its own stands for all of them.
        of_domain = domain != score.benchmark and domain in sheet.domains
        column = score.name or _own_column(result, answers)
        if column is None:
            continue
        found = [
            {"id": name, "domain": domain, "image": int(image), "score": answers[name].score[column]}
            for name, own, image in zip(sheet.ids, sheet.domains, sheet.clusters_N, strict=True)
            if (own == domain or not of_domain)
            and (name in closed or not score.closed)
            and name in counted
            and answers[name].score.get(column) is not None
        ]
        if not found:
            raise UserError(f"{score.benchmark} has no question of {domain} with the score {column}")
        told += found
    return told


def _own_column(result: BenchmarkResult, answers: Mapping[str, Answer]) -> str | None:
    """The first column of a benchmark's table that an answer has by itself; None: its scores are of all together."""
    own = {name for answer in answers.values() for name in answer.score}
    return next((column for column in result.columns if column in own), None)


def curve_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Domain to (step, mean training loss up to it since the point before), some points of a run's log."""
    log = read_objects(run / "log.jsonl", "delete the run's folder and train again", _STEP)
    size = max(1, -(-len(log) // _NUM_POINTS))
    curve = defaultdict(list)
    for first in range(0, len(log), size):
        sums: dict[str, tuple[float, int]] = {}
        for step in log[first : first + size]:
            for domain, told in step["domains"].items():
                if told["loss"] is not None:
                    nats, tokens = sums.get(domain, (0.0, 0))
                    sums[domain] = (
                        nats + told["loss"] * told["supervised_tokens"],
                        tokens + told["supervised_tokens"],
                    )
        last = log[min(first + size, len(log)) - 1]["step"]
        for domain, (nats, tokens) in sums.items():
            if tokens:
                curve[domain].append((last, round(nats / tokens, 5)))
    return dict(curve)


def measure(run: Path, measures: Measures) -> dict[str, Any]:
    """What ``measured.json`` holds."""
    assembled = restore(run)
    held_out = MeasuredHeldOut(run, assembled, measures)
    records = held_out.records()
    return {
        "parameters": sum(tensor.numel() for tensor in assembled.attached.state_dict().values()),
        "flops_per_token": held_out.flops_per_token,
        "records": [one | {"nats": round(one["nats"], 5)} for one in records],
        "questions": questions_of(run, measures),
        "curve": curve_of(run),
        "trained": trained_in(run, assembled),
        "checkpoint": newest_checkpoint(run).name,
    }


def trained_in(run: Path, assembled: Assembled) -> dict[str, int]:
    """Part of the model to the parameters that trained in a run; gradients are switched on for them."""
    config, attached = read_config(run), assembled.attached
    parts = trainable_parts(config)
    adapter = attached.trainable_parameters() if "adapter" in parts.learning_rates else {}
    groups = prepare_stage(assembled.model, parts, adapter, assembled.base.family)
    return {group.part: group.num_parameters for group in groups}


def main(words: Sequence[str]) -> int:
    """Measure the run of ``run=``, and write the file."""
    given: Mapping[str, str] = dict(word.split("=", 1) for word in words)
    torch.set_num_threads(1)
    try:
        run = Path(given["run"])
        told = measure(run, Measures.from_word(given["measure"]))
        write_atomically(run / FILE, json.dumps(told) + "\n")
    except UserError as error:
        sys.stderr.write(f"llava-moe: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
