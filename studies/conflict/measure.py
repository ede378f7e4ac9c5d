"""Item by item, what a run does on held-out records and a benchmark's closed questions: ``measured.json`` beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llava_moe.assemble import Assembled, read_config, restore
from llava_moe.commands.measure_items import examples_of, nats_of, rows_of
from llava_moe.config.settings import mixture_of
from llava_moe.data.batch import collate
from llava_moe.data.readers.splits import is_read
from llava_moe.errors import UserError
from llava_moe.eval.files import answers_path, read_answers, read_result
from llava_moe.eval.results.score_matrix import make_score_matrix
from llava_moe.eval.tasks import reopen_benchmark
from llava_moe.files.atomic_write import write_atomically

FILE = "measured.json"


def records_of(run: Path, assembled: Assembled, domains: Sequence[str], split: str) -> list[dict[str, Any]]:
    """Each held-out record of the domains in the order of the sources: its key, domain, supervised tokens and nats.

    Raises:
        UserError: a source trains on that split, or has none of it.
    """
    config = read_config(run)
    told = []
    device = next(assembled.model.parameters()).device
    for source in mixture_of(config.changed(domains=list(domains))).sources:
        if is_read(split, source.split) or is_read(source.split, split):
            raise UserError(f"measure.split: source {source.name!r} trains on {split!r}; name another split")
        examples = examples_of(replace(source, split=split), assembled)
        for row in rows_of(examples, config.train.tokens_per_micro_batch):
            batch = collate(row, range(len(row)), None, assembled.encoder.pad_token_id)
            nats = nats_of(assembled, batch.to(device)).tolist()
            for example, of_record in zip(row, nats, strict=True):
                tokens = int((example.labels[1:] != -100).sum())
                told.append({"key": example.key[:16], "domain": source.domain, "tokens": tokens, "nats": of_record})
    return told


def questions_of(run: Path, domains: Sequence[str], benchmark: str) -> list[dict[str, Any]]:
    """Each closed question that the run was asked: its id, domain, the image it hangs on, and whether it was right.

    Raises:
        UserError: the run was not scored, or the benchmark has no closed question in one of the domains.
    """
    result = read_result(run, benchmark)
    if result is None:
        raise UserError(f"{run} was not scored on {benchmark}: run llava-moe eval first")
    opened = reopen_benchmark(result)
    answers = {answer.question_id: answer for answer in read_answers(answers_path(run, benchmark))}
    closed = {question.id for question in opened.questions() if question.closed}
    sheet = make_score_matrix(opened, answers)
    told = [
        {"id": name, "domain": domain, "image": int(cluster), "right": answers[name].score["exact_match"] == 1.0}
        for name, domain, cluster in zip(sheet.ids, sheet.domains, sheet.clusters_N, strict=True)
        if name in closed and domain in domains and "exact_match" in answers[name].score
    ]
    for domain in domains:
        if not any(one["domain"] == domain for one in told):
            raise UserError(f"measure.benchmark: {benchmark} has no closed question of {domain}")
    return told


def measure(run: Path, domains: Sequence[str], split: str, benchmark: str) -> dict[str, Any]:
    """What ``measured.json`` holds: the base, trainable parameters of the adapter, records and questions."""
    assembled = restore(run)
    return {
        "base": assembled.weights.whole,
        "parameters": sum(tensor.numel() for tensor in assembled.attached.state_dict().values()),
        "records": records_of(run, assembled, domains, split),
        "questions": questions_of(run, domains, benchmark),
    }


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--domains", required=True, help="comma-separated")
    parser.add_argument("--split", required=True)
    parser.add_argument("--benchmark", required=True)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    try:
        told = measure(given.run, given.domains.split(","), given.split, given.benchmark)
        write_atomically(given.run / FILE, json.dumps(told))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
