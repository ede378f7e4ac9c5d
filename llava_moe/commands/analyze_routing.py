"""``llava-moe analyze routing``: which expert serves which domain, layer and kind of token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_moe.adapters import LlavaMole, Mole
from llava_moe.adapters.methods.mole_experts import Expert
from llava_moe.analyze.atlas.findings import Findings
from llava_moe.analyze.atlas.measure import (
    Routers,
    image_clusters,
    look,
    num_piece_bytes,
    read_measured,
    read_record,
    route_records,
)
from llava_moe.analyze.atlas.patches import PatchMap, patch_map
from llava_moe.analyze.atlas.summary import KindAtlas, RecordSet, strongest_routers, summarize
from llava_moe.analyze.output import Output
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.progress import Progress
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.analyze.routing_page import routing_output
from llava_moe.commands.analyze_run import (
    AnalyzedRun,
    Session,
    finish,
    open_records_of,
    open_run,
    settings_asked,
)
from llava_moe.commands.words.analyze_routing import chosen_steps
from llava_moe.errors import UserError
from llava_moe.terminal.fitted_bar import clock

FEWEST = 8
"""Records of each domain: fewer have no interval worth the name."""


def measure(plain: Mapping[str, Any], session: Session) -> int:
    """Route held-out records at each checkpoint, and write ``routing.{json,csv,svg,html}``."""
    ranks = session.ranks
    steps = ranks.together(lambda: chosen_steps(plain))
    by_step: dict[int, Pieces] = {}
    run, records = _opened(plain, steps[0], session), None
    for number, step in enumerate(steps):
        if number:
            del run  # its model makes room for the next
            run = _opened(plain, step, session)
        records = records or open_records_of(run, plain, session, FEWEST)
        routers = look(run.assembled, records)
        if not number:
            tell_costs(routers, records, len(steps), session)
        by_step[run.step] = Pieces(_pieces_folder(plain, run), "routing", settings_asked(run, records))
        _route(run, records, by_step[run.step], session)
    assert records is not None
    opened = (run, records, routers)
    output = ranks.from_first(lambda: _output(*opened, by_step, plain, session))
    return finish(run, "routing", output, session)


def _opened(plain: Mapping[str, Any], step: int | None, session: Session) -> AnalyzedRun:
    run = open_run(plain if step is None else {**plain, "checkpoint": step}, session)
    session.ranks.together(lambda: refuse_unrouted(run))
    return run


def refuse_unrouted(run: AnalyzedRun) -> None:
    """Raise ``UserError`` where nothing in the model decides."""
    attached = run.assembled.attached
    if not attached.is_routed:
        raise UserError(
            f"{run.checkpoint.parent.parent} has no routing: its adapter ({attached.config.method}) treats all tokens "
            "alike; give a run of llava_mole, mixlora or mole with two experts or more"
        )


def _pieces_folder(plain: Mapping[str, Any], run: AnalyzedRun) -> Path:
    """One for all checkpoints of a run: pieces go by their weights."""
    return run.root / "analyze" if plain["out"] is None else Path(plain["out"])


def _route(run: AnalyzedRun, records: HeldOutRecords, pieces: Pieces, session: Session) -> None:
    ranks, title = session.ranks, f"routing at step {run.step:,}"
    ranks.together(lambda: route_records(run.assembled, records, pieces, ranks, session.console, title))


def tell_costs(routers: Routers, records: HeldOutRecords, num_checkpoints: int, session: Session) -> None:
    """Print what it will take, its time from one pass."""
    told = _costs(records, num_checkpoints, routers)
    seconds = routers.seconds * num_checkpoints * len(records.examples) / session.ranks.world
    share = f", shared by {session.ranks.world} processes" if session.ranks.world > 1 else ""
    session.console.print(f"  {told}; about {clock(seconds)} here{share}", highlight=False, markup=False)


def _costs(records: HeldOutRecords, num_checkpoints: int, routers: Routers) -> str:
    num_passes = num_checkpoints * len(records.examples)
    num_tokens = sum(len(example.input_ids) for example in records.examples)
    num_bytes = num_checkpoints * num_piece_bytes(routers, records)
    each = f" at {num_checkpoints} checkpoints" if num_checkpoints > 1 else ""
    return (
        f"{num_passes:,} forward passes of one record, {num_tokens:,} tokens{each}, {num_bytes / 1e6:.1f} MB of "
        "decisions kept on the disk"
    )


def _output(
    run: AnalyzedRun,
    records: HeldOutRecords,
    routers: Routers,
    by_step: Mapping[int, Pieces],
    plain: Mapping[str, Any],
    session: Session,
) -> Output:
    clusters_N = image_clusters(records)
    record_set = RecordSet(records.names, records.group_of, clusters_N)
    atlases = _atlases(record_set, routers, by_step, plain, session)
    found = Findings(
        run=run.facts,
        records=records,
        num_clusters=len(np.unique(clusters_N)),
        routers=routers,
        experts=_expert_names(run, routers),
        settings={key: plain[key] for key in ("seed", "samples", "resamples", "dead_below")},
        atlases=atlases,
    )
    config = run.assembled.attached.config
    is_dense = isinstance(config, LlavaMole) and config.router == "dense"
    maps = _maps(run, found, by_step[run.step], plain["pictures"])
    return routing_output(found, maps, is_dense, _costs(records, len(by_step), routers))


def _atlases(
    record_set: RecordSet,
    routers: Routers,
    by_step: Mapping[int, Pieces],
    plain: Mapping[str, Any],
    session: Session,
) -> dict[int, dict[str, KindAtlas]]:
    atlases, before = {}, None
    with Progress(session.console, "summing up", len(by_step)) as progress:
        for step, pieces in by_step.items():
            atlases[step] = summarize(
                read_measured(pieces, step, len(record_set.domains_N), before),
                record_set,
                routers.kinds,
                routers.num_experts_U,
                are_weights=routers.are_weights,
                dead_below=plain["dead_below"],
                num_resamples=plain["resamples"],
                seed=plain["seed"],
            )
            before = pieces
            progress.step()
    return atlases


def _expert_names(run: AnalyzedRun, routers: Routers) -> tuple[str, ...]:
    """What the LoRAs of MoLE are called; numbers from 1 for all others."""
    config = run.assembled.attached.config
    if isinstance(config, Mole):
        return tuple(one.name if isinstance(one, Expert) else Path(one).name for one in config.experts)
    return tuple(str(number + 1) for number in range(int(routers.num_experts_U.max())))


def _maps(run: AnalyzedRun, found: Findings, pieces: Pieces, num_pictures: int) -> list[PatchMap]:
    """The first pictures of each domain, by the routers of the first, middle and last layer and the most telling."""
    records, num_patches = found.records, run.assembled.encoder.num_image_tokens
    if "image" not in found.last or not isinstance(num_patches, int):
        return []
    drawn = {f"layer {found.routers.routers[row].layer}": row for row in _rows_to_draw(found)}
    maps: list[PatchMap] = []
    for group, name in enumerate(records.names):
        num_drawn = 0
        for place in np.flatnonzero(records.group_of == group).tolist():
            if num_drawn == num_pictures:
                break
            one = patch_map(records.examples[place], read_record(pieces, place), name, drawn, num_patches)
            if one is not None:
                maps.append(one)
                num_drawn += 1
    return maps


def _rows_to_draw(found: Findings) -> Sequence[int]:
    num = len(found.routers.routers)
    chosen = {0, num // 2, num - 1, *strongest_routers(found.last, "image", 1)}
    return sorted(chosen)
