"""``llava-moe ls run``: the runs below ``runs``, what each trained, how far it came and how well, the latest last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llava_moe.config.config_folder import shipped_folders
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import last_checkpoint
from llava_moe.files.our_files import MAYBE_NUMBER, misfit, read_object, read_sound_objects
from llava_moe.files.regular_file import read_regular
from llava_moe.files.run_places import CONFIG, ROOT, all_runs
from llava_moe.terminal.console import print_whole
from llava_moe.text.structured_text import StructuredTextError, parse_json, parse_yaml
from llava_moe.train.folder import ENVIRONMENT, FINISHED

LOG, VALIDATION = "log.jsonl", "validation.jsonl"
SINGLY = 2
"""How deep below ``runs`` a run is listed by itself; deeper ones are counted by the folder that holds them."""
_TAIL = 1 << 16
_REMEDY = "put it back, or remove the run"
_SHAPE = {
    "adapter?": (dict, type(None)),
    "path?": (str, type(None)),
    "domains?": (list, type(None)),
    "train": {"max_steps?": MAYBE_NUMBER},
    "data": {"sources": {str: {"domain?": str}}, "follows_domains?": bool},
}


@dataclass(frozen=True)
class RunLine:
    """A run, or the runs below a folder, as a line tells it.

    Attributes:
        stands: ``finished, 850 steps``, ``120 of 850 steps``, ``no step yet``, or what is broken.
        held_out: the last held-out loss, and the best where that was another; "" where none was measured.
        changed: when something was last written, in seconds since 1970.
    """

    place: str
    adapter: str = ""
    data: str = ""
    stands: str = ""
    held_out: str = ""
    changed: float = 0.0


def run_folders(root: Path = ROOT) -> list[Path]:
    """The folders of runs that are listed by themselves, of an experiment's stages too."""
    return sorted(folder for folder in all_runs(root) if len(folder.relative_to(root).parts) <= SINGLY)


def run_lines(root: Path = ROOT) -> list[RunLine]:
    """A line for each run, and one for each folder of many; the latest last."""
    lines, nested = [], dict[Path, list[RunLine]]()
    for folder in sorted(all_runs(root)):
        parts = folder.relative_to(root).parts
        if len(parts) <= SINGLY:
            lines.append(line_of(folder))
        else:
            nested.setdefault(root.joinpath(*parts[:SINGLY]), []).append(line_of(folder))
    for folder, inside in nested.items():
        num_finished = sum(line.stands.startswith("finished") for line in inside)
        told = f"{len(inside)} {'run' if len(inside) == 1 else 'runs'} in it, {num_finished} finished"
        lines.append(RunLine(f"{folder}/", stands=told, changed=max(line.changed for line in inside)))
    return sorted(lines, key=lambda line: (line.changed, line.place))


def list_runs(console: Console) -> int:
    """Print the runs as a table, or that there are none."""
    if lines := run_lines():
        print_whole(console, _table_of(lines))
    else:
        console.print(f"no run lies below {ROOT} here: llava-moe train makes one")
    return 0


def _table_of(lines: list[RunLine]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "adapter", "data", "stands at", "held-out loss"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "adapter")
    table.add_column("written", no_wrap=True)
    for line in lines:
        written = datetime.fromtimestamp(line.changed).strftime("%Y-%m-%d %H:%M")
        table.add_row(line.place, line.adapter, line.data, line.stands, line.held_out, written)
    return table


def line_of(folder: Path) -> RunLine:
    """What a run's files say of it; what cannot be read is told in the place of where it stands."""
    changed = max((_written(folder / name) for name in (FINISHED, LOG, VALIDATION, CONFIG)), default=0.0)
    try:
        config = _config_of(folder)
        stands, held_out = _stands(folder, config), _held_out(folder)
    except (UserError, OSError) as error:
        told = str(error).replace(f"{folder}/", "", 1)
        return RunLine(str(folder), stands=f"broken: {told}", changed=changed)
    target = str((config.get("adapter") or {}).get("_target_", ""))
    return RunLine(str(folder), _adapter(target), _data(config), stands, held_out, changed)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        config = parse_yaml(read_regular(folder / CONFIG))
    except (OSError, StructuredTextError) as error:
        raise UserError(f"{CONFIG} is damaged ({getattr(error, 'strerror', None) or error})") from error
    told = misfit(config, _SHAPE) if isinstance(config, dict) else "it holds no settings"
    if told is not None:
        raise UserError(f"{CONFIG} is no run's ({told[:80]})")
    return dict(config)


def _stands(folder: Path, config: Mapping[str, Any]) -> str:
    if (folder / FINISHED).is_file():
        step = read_object(folder / FINISHED, _REMEDY, {"step": int})["step"]
        return f"finished, {step:,} {'step' if step == 1 else 'steps'}"
    total = config["train"].get("max_steps")
    if total is None and (folder / ENVIRONMENT).is_file():
        total = read_object(folder / ENVIRONMENT, _REMEDY, {"num_steps?": int}).get("num_steps")
    checkpoint = last_checkpoint(folder)
    saved = 0 if checkpoint is None else int(checkpoint.name.partition("-")[2])
    step = max(saved, _last_step(folder / LOG))
    if not step:
        return "no step yet"
    of = f" of {total:,}" if total else ""
    return f"{step:,}{of} steps" + ("" if step == saved else f", {saved:,} saved")


def _last_step(log: Path) -> int:
    """The step of the last whole line of a log, of which only the end is read."""
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        try:
            content = parse_json(line)
        except StructuredTextError:
            continue
        if isinstance(content, dict) and isinstance(content.get("step"), int):
            return int(content["step"])
    return 0


def _held_out(folder: Path) -> str:
    measured, _ = read_sound_objects(folder / VALIDATION, _REMEDY, {"step": int, "held_out_loss?": MAYBE_NUMBER})
    losses = [one["held_out_loss"] for one in measured if one.get("held_out_loss") is not None]
    if not losses:
        return ""
    best, last = min(losses), losses[-1]
    return f"{last:.3f}" + ("" if best == last else f", best {best:.3f}")


def _adapter(target: str) -> str:
    """The name that ``adapter=`` has for a class, as ``ls adapter`` lists them; the class's own for another."""
    for path in (path for folder in shipped_folders() for path in (folder / "adapter").glob("*.yaml")):
        if parse_yaml(path.read_bytes()).get("_target_") == target:
            return path.stem
    return target.rpartition(".")[2]


def _data(config: Mapping[str, Any]) -> str:
    """What was trained on: one's own file, or the domains."""
    sources = config["data"]["sources"]
    if config.get("path") is not None and [*sources] == ["mine"]:
        return Path(config["path"]).name
    domains = dict.fromkeys(str(one.get("domain", name)) for name, one in sources.items())
    chosen = config.get("domains") if config["data"].get("follows_domains") else None
    names = [name for name in domains if chosen is None or name in chosen]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])
