"""What ``data check`` looks at: the sources of all stages, each with what its recipe knows of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from llava_moe.assemble import ModelSpec, encoder_of, model_spec_of
from llava_moe.config.settings import mixture_of
from llava_moe.data.encode import Encoder
from llava_moe.data.readers.splits import is_read
from llava_moe.data.records import Records, Source
from llava_moe.data.shard_records import ShardRecords
from llava_moe.data.source import open_records
from llava_moe.datatools.check.known_faults import Known
from llava_moe.datatools.check.sources import Trouble
from llava_moe.datatools.check.stage_view import View
from llava_moe.datatools.prepare.recipe import Recipe, Repair, load_recipe, recipe_names, recipes_that_load
from llava_moe.errors import UserError
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.stages import Stage


def open_views(stages: Sequence[Stage], keep_duplicates: bool) -> tuple[list[View], list[Trouble]]:
    """Every source of every stage, each way of reading it once; those that cannot be opened become troubles.

    Args:
        keep_duplicates: copies of a record are meant, in every source.

    Raises:
        UserError: none can be opened.
    """
    wanted: dict[tuple[Source, str], list[str]] = {}
    model_specs: dict[str, ModelSpec] = {}
    for stage in stages:
        model_spec = model_spec_of(stage.config)
        reading = _reading(model_spec)
        model_specs.setdefault(reading, model_spec)
        for source in mixture_of(stage.config).sources:
            # How often a source is passed over changes nothing in its records.
            plain = replace(source, repeats=1.0, cap=None, weight=1.0)
            wanted.setdefault((plain, reading), []).append(stage.folder.name)
    names = [source.name for source, _ in wanted]
    encoders: dict[str, Encoder] = {}
    views, troubles = [], []
    for (source, reading), titles in wanted.items():
        label = source.name if names.count(source.name) == 1 else f"{source.name} ({', '.join(titles)})"
        try:
            records = open_records(source, cache_folder())
        except UserError as error:
            troubles.append(Trouble(label, "source_unreadable", str(error)))
            continue
        # Only now: a tokenizer may have to be fetched, which is in vain where no data is there.
        if reading not in encoders:
            encoders[reading] = encoder_of(model_specs[reading])
        on_purpose = keep_duplicates or _repeats_on_purpose(_recipe_name(source, records))
        views.append(View(label, tuple(titles), source, records, encoders[reading], repeats_on_purpose=on_purpose))
    if not views:
        more = f" (and {len(troubles) - 1} more sources)" if len(troubles) > 1 else ""
        raise UserError(f"{troubles[0].detail}{more}")
    return views, troubles


def _reading(spec: ModelSpec) -> str:
    """What decides how a record is read, as text that two stages share if they read alike."""
    parts = (spec.architecture, spec.template, spec.image_mode, spec.max_length, spec.over_length)
    return repr((*parts, spec.reading))


def _recipe_name(source: Source, records: Records) -> str | None:
    if source.recipe is not None:
        return source.recipe
    if isinstance(records, ShardRecords):
        return records.manifest.recipe
    # A published file that is read as it came.
    return source.format if _repeats_on_purpose(source.format) else None


def _repeats_on_purpose(name: str | None) -> bool:
    return name in recipe_names() and load_recipe(name).repeats_on_purpose


def _recipe(view: View) -> Recipe | None:
    name = _recipe_name(view.source, view.records)
    return load_recipe(name) if name in recipe_names() else None


def published(view: View) -> int | None:
    """Records published in the view's splits, where its recipe says and takes them all."""
    recipe = _recipe(view)
    if recipe is None or recipe.draw is not None:
        return None
    splits = tuple(split for split in view.records.splits if is_read(split, view.source.split))
    counts = [recipe.expected(split) for split in splits]
    return sum(count for count in counts if count is not None) if counts and None not in counts else None


def known_faults(views: Sequence[View]) -> Known:
    """Known faults by source: those of its recipe; of a source without one, those that name a folder of their set."""
    known: dict[str, Callable[[str, str], Repair | None]] = {}
    anywhere: list[Repair] | None = None
    for view in views:
        recipe = _recipe(view)
        if recipe is not None:
            known[view.label] = recipe.repair
            continue
        if anywhere is None:
            # A package whose recipe does not load has nothing to say of data that does not name it.
            readable = [one for one in recipes_that_load().values() if isinstance(one, Recipe)]
            everything = [repair for one in readable for repair in one.repairs]
            anywhere = [repair for repair in everything if "/" in repair.pattern.partition("*")[0]]
        known[view.label] = partial(_first_that_explains, anywhere)
    return known


def _first_that_explains(repairs: Sequence[Repair], image: str, kind: str) -> Repair | None:
    return next((repair for repair in repairs if repair.explains(image, kind)), None)
