"""``llava-moe data check``: every record and image of what ``train`` would read, before any GPU hour."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_moe.commands.check_console import CheckBar, show
from llava_moe.commands.check_views import known_faults, open_views, published
from llava_moe.commands.data_job import begin, of_ones_own
from llava_moe.commands.job import DataJob
from llava_moe.data.ordered_prefetch import num_cores
from llava_moe.data.quarantine import Quarantined
from llava_moe.datatools.check.eval_sets import AskedSet, asked_of, open_asked
from llava_moe.datatools.check.fault_kinds import KINDS
from llava_moe.datatools.check.files import LIST, write_list, write_numbers
from llava_moe.datatools.check.findings import quarantine_list
from llava_moe.datatools.check.left_out import bad_lines, is_emptied, listed_lines
from llava_moe.datatools.check.odd_image_lines import dark_lines, odd_lines
from llava_moe.datatools.check.page import write_page
from llava_moe.datatools.check.run_check import Checked, check_mix
from llava_moe.datatools.check.sources import Trouble
from llava_moe.errors import UserError
from llava_moe.eval.baselines import is_twin
from llava_moe.eval.tasks import is_own
from llava_moe.run_config import RunConfig
from llava_moe.runs.cache_folder import cache_folder
from llava_moe.runs.console import open_console, open_progress, say_next
from llava_moe.runs.own_questions import training_benchmarks
from llava_moe.text.shell_words import named

FOLDER = Path("checks")


def check(job: DataJob) -> int:
    """Check, show, and write the list, the numbers and the page."""
    begin(job)
    console = open_console()
    job, left_out = of_ones_own(job)
    for line in left_out:
        console.print(line, soft_wrap=True)
    folder = job.folder if job.choices["out"] else FOLDER / job.folder.name
    _refuse_unwritable(folder)
    asked = _open_asked(job)
    views, troubles = open_views(job.stages, keep_duplicates=job.choices["duplicates"] == "keep")
    with CheckBar(open_progress()) as bar:
        checked = check_mix(
            views,
            asked,
            expected={view.label: count for view in views if (count := published(view)) is not None},
            known=known_faults(views),
            num_processes=job.choices["num_processes"] or num_cores(),
            num_images=job.choices["sample_images"],
            seed=job.config.seed,
            progress=bar,
        )
    checked.troubles[:0] = troubles
    listed, ambiguous = quarantine_list(checked.findings)
    notes = _notes(job, checked, listed, ambiguous, asked)
    blocking = [trouble for trouble in checked.troubles if KINDS[trouble.kind].severity == "fault"]
    # The same words would only meet the same trouble.
    is_in_vain = bool(blocking) or any(is_emptied(one) for one in checked.findings)
    following = [] if is_in_vain else _next_commands(job, folder, listed)
    write_list(folder, listed)
    about = {"train": job.words, "against": [one.name for one in asked], "notes": notes}
    write_numbers(folder, about, checked, listed)
    page = write_page(folder, folder.name, job.words, checked, len(listed), notes, following)
    show(console, checked, notes)
    console.print(f"\npage: {page}\nlist: {folder / LIST}, {len(listed):,} records", soft_wrap=True)
    if following:
        say_next(console, following)
    _refuse(job, folder, checked, blocking, listed)
    return 0


def _refuse_unwritable(folder: Path) -> None:
    """Say now what would stop the check at its end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"out={folder}: cannot be written ({error.strerror}); choose another folder") from error


def _open_asked(job: DataJob) -> list[AskedSet]:
    """The evaluation sets: those that the experiment is scored on, and those of ``against=``."""
    scored = {name: config for config in (job.config, *(one.config for one in job.stages)) for name in _scored(config)}
    return [_asked_set(job, name, scored.get(name)) for name in dict.fromkeys([*scored, *job.choices["against"]])]


def _asked_set(job: DataJob, name: str, scored: RunConfig | None) -> AskedSet:
    """One evaluation set; ``scored`` is the configuration that is scored on it."""
    if scored is None or not is_own(name):
        return open_asked(name, job.choices["against_images"], cache_folder(), job.config.seed)
    # The images of one's own questions are found as when they are asked.
    (benchmark,) = training_benchmarks(scored, [name])
    return asked_of(name, [question for question in benchmark.questions() if not is_twin(question.id)])


def _scored(config: RunConfig) -> list[str]:
    return list(config.eval.benchmarks)


def _notes(
    job: DataJob, checked: Checked, listed: Sequence[Quarantined], ambiguous: Sequence[str], asked: Sequence[AskedSet]
) -> list[str]:
    share = min(stage.config.data.max_bad_share for stage in job.stages)
    notes = [*bad_lines(checked.findings, share), *listed_lines(checked.findings)]
    elsewhere = sum(len(one.faults) for one in checked.findings) - len(listed)
    if elsewhere > 0 and len(checked.findings) > len({one.view.source.name for one in checked.findings}):
        notes.append(
            "Of a source that stages read differently, the list holds what is bad in all of them; what is bad in one, "
            "that stage leaves out by itself."
        )
    for name in ambiguous:
        notes.append(
            f"{name} stands for different files in different stages, so none of its records is on the list: rename one."
        )
    notes += [*dark_lines(checked.findings), *odd_lines(checked.findings)]
    notes += checked.unseen
    if not asked:
        notes.append("No evaluation set was given, so leaks were not looked for: add against=[...].")
    elif not any(one.counts[kind] for one in checked.findings for kind in ("leak", "leak_image")):
        notes.append(f"No image of {', '.join(one.name for one in asked)} is among those opened.")
    return notes


def _next_commands(job: DataJob, folder: Path, listed: Sequence[Quarantined]) -> list[str]:
    words = " ".join(["llava-moe train", job.words]).strip()
    if not listed:
        return [words]
    return [f"{words} {named('data.quarantine', folder / LIST)}"]


def _refuse(
    job: DataJob, folder: Path, checked: Checked, blocking: Sequence[Trouble], listed: Sequence[Quarantined]
) -> None:
    """Exit as training would: a source that it would not begin with; or, where asked for, on any fault."""
    if blocking:
        more = f" (and {len(blocking) - 1} more; see {folder})" if len(blocking) > 1 else ""
        raise UserError(f"{blocking[0].label}: {blocking[0].kind}: {blocking[0].detail}{more}")
    bad = sum(len(one.faults) for one in checked.findings)
    if job.choices["strict"] and (bad or listed):
        raise UserError(f"{bad:,} records are to be left out and strict=true was given: see {folder}")
