"""What an export reads of a run beside its weights: held-out records, and the facts of its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from llava_moe.adapters import NoAdapter
from llava_moe.adapters.formats.hub_name import hub_id
from llava_moe.assemble import Assembled, ModelSpec
from llava_moe.config.settings import mixture_of
from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.conversation import BadRecord
from llava_moe.data.encode import Encoder, Example
from llava_moe.data.readers.splits import is_read, settled
from llava_moe.data.records import Records, Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError
from llava_moe.eval.files import read_result, read_results
from llava_moe.eval.results.table import markdown_tables
from llava_moe.export.card import Card, DomainData
from llava_moe.export.hide_local_paths import without_places
from llava_moe.export.proof import Comparison
from llava_moe.files.our_files import NUMBER, damaged_beside, read_sound_objects
from llava_moe.model import Architecture, FromCheckpoint, FromParts, FromShape
from llava_moe.model.families import family_of
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.text.markdown import markdown_code
from llava_moe.train.state import RunState


@dataclass(frozen=True)
class ExportHeldOut:
    """Packed rows of each domain, and what a reader must know of them."""

    rows: dict[str, list[Batch]]
    notes: tuple[str, ...]


def domains_of(run: RunConfig) -> tuple[str, ...]:
    """The domains of a run's data."""
    return mixture_of(run).domains


def open_held_out(run: RunConfig, assembled: Assembled, split: str, limit: int, seed: int) -> ExportHeldOut:
    """Encode up to ``limit`` records of each domain, of the split that the run did not train on where there is one.

    Raises:
        UserError: a file is gone, or no record of a domain can be read.
    """
    mixture, length = mixture_of(run), run.train.tokens_per_micro_batch
    examples: dict[str, list[Example]] = {domain: [] for domain in mixture.domains}
    notes = []
    for source in mixture.sources:
        share = -(-limit // sum(other.domain == source.domain for other in mixture.sources))
        held_out, records = source, open_records(source, cache_folder())
        if (source.split is not None or settled(split) in records.splits) and not is_read(split, source.split):
            held_out = replace(source, split=split)
            records = open_records(held_out, cache_folder())
        else:
            notes.append(f"{source.name}: no held-out split, so its training records are measured")
        examples[source.domain] += _sample(records, held_out, assembled.encoder, share, seed, mixture.domains)
    rows = {}
    for domain, found in examples.items():
        if not found:
            raise UserError(f"no record of {domain} can be read: static= has nothing to measure")
        rows[domain] = _packed(found, max(length, *(len(example.input_ids) for example in found)), assembled.encoder)
        notes.append(
            f"{domain}: {len(found)} records, {sum(row.supervised_tokens for row in rows[domain]):,} answer tokens"
        )
    return ExportHeldOut(rows, tuple(notes))


def _sample(
    records: Records, source: Source, encoder: Encoder, limit: int, seed: int, domains: Sequence[str]
) -> list[Example]:
    order = np.random.default_rng(seed).permutation(len(records))
    examples: list[Example] = []
    for row in order.tolist():
        if len(examples) == limit:
            break
        try:
            domain = domains.index(source.domain)
            examples.append(encoder.encode(records[row], records.image_root, domain, source.value_range))
        except BadRecord:
            continue  # training would have left it out too
    return examples


def _packed(examples: Sequence[Example], length: int, encoder: Encoder) -> list[Batch]:
    rows: list[list[Example]] = []
    room = 0
    for example in examples:
        if not rows or len(example.input_ids) > room:
            rows.append([])
            room = length
        rows[-1].append(example)
        room -= len(example.input_ids)
    return [collate_row(encoder, row, range(len(row))) for row in rows]


def card_of(
    checkpoint: Path,
    run: RunConfig,
    model_spec: ModelSpec,
    form: str,
    prompt: str,
    comparisons: Sequence[Comparison],
) -> Card:
    """The card of a run's export."""
    folder = checkpoint.parent.parent
    has_adapter = not isinstance(model_spec.adapter, NoAdapter)
    base, hub_base = base_in_words(model_spec.architecture)
    data, num_unread = _data_seen(folder, run)
    return Card(
        name=folder.name,
        form=form,
        base=base,
        hub_base=hub_base,
        method=model_spec.adapter.method,
        settings=without_places(asdict(model_spec.adapter)) if has_adapter else {},
        steps=RunState.read(checkpoint / "state.json").step,
        data=data,
        num_unread=num_unread,
        prompt=prompt,
        comparisons=comparisons,
        scores=_scores(folder),
        reading=model_spec.reading,
    )


def base_in_words(architecture: Architecture) -> tuple[str, str | None]:
    """What a card says of the base, and its hub id where it has one."""
    if isinstance(architecture, FromCheckpoint):
        return _said(architecture.path), hub_id(architecture.path)
    if isinstance(architecture, FromParts):
        language, tower = architecture.language_model, architecture.vision_tower
        note = (
            " Both are the small models that ship with llava-moe, for demonstration." if "embedded:" in language else ""
        )
        parts = f"Vision tower {_said(tower)}, language model {_said(language)}, joined by a projector."
        return parts + note, hub_id(language)
    if isinstance(architecture, FromShape):
        return "Random weights of a given shape: a test's, of no use for answers.", None
    return f"A model of the family {family_of(architecture).name}.", None


def _said(reference: str) -> str:
    """A base's name as a card may show it: of a folder its own name, without the way there."""
    hub = hub_id(reference)
    return markdown_code(hub or Path(reference).expanduser().name) + (
        "" if hub or ":" in reference else " (a local folder)"
    )


LOGGED = {"domains?": {str: {"samples": NUMBER, "supervised_tokens": NUMBER}}}
"""What is read of a line of ``log.jsonl``."""


def _data_seen(folder: Path, run: RunConfig) -> tuple[list[DomainData], int]:
    """Samples and supervised tokens of each domain, summed over the run's log, and how many of its lines are damaged.

    Lines that a start again has set aside are damaged, too.
    """
    totals: dict[str, list[int]] = {domain: [0, 0] for domain in domains_of(run)}
    log, remedy = folder / "log.jsonl", "fix or delete that file"
    steps, damaged = read_sound_objects(log, remedy, LOGGED)
    set_aside, told_aside = read_sound_objects(damaged_beside(log), remedy)
    for step in steps:
        for domain, seen in step.get("domains", {}).items():
            total = totals.setdefault(domain, [0, 0])
            total[0] += seen["samples"]
            total[1] += seen["supervised_tokens"]
    sources = mixture_of(run).sources
    data = [
        DomainData(domain, tuple(source.name for source in sources if source.domain == domain), *total)
        for domain, total in totals.items()
    ]
    return data, len(damaged) + len(set_aside) + len(told_aside)


def _scores(folder: Path) -> list[str]:
    """The tables of a run's evaluations, its own or those of the experiment that it is a stage of."""
    for place in (folder, folder.parent):
        results = place / "eval" / "results.json"
        if results.is_file():
            found = [read_result(place, name) for name in read_results(place)]
            return [markdown_tables(result) for result in found if result is not None]
    return []
