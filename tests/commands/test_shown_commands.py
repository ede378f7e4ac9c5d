"""Every command that the documentation shows runs here, made small, or its page says what it needs beside a laptop.

The pages are followed in a folder that has what they take for there: one's own files under the names that the pages
give them, and a few runs that some of their own commands made before.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from llava_moe.cli import run
from tests.commands.conftest import write_three_files
from tests.data.readers.raw import write_raw
from tests.made_small import SHORT, made_small
from tests.shown_commands import ROOT, Shown, shown_commands, write_shown_files

ELSEWHERE = {
    "llava-moe analyze interference run=runs/demo exact=[all,side]": "commands/test_analyze_interference.py::"
    "test_the_files_say_the_same_and_the_report_links_the_page",
    "llava-moe analyze interference run=runs/...": "commands/test_analyze_interference.py::"
    "test_the_same_command_gives_the_same_bytes_and_computes_nothing_twice",
    "llava-moe analyze interference run=runs/demo checkpoint=": "commands/test_analyze_interference.py::"
    "test_another_checkpoint_and_tasks_have_files_of_their_own",
    "llava-moe analyze interference run=runs/conflict checkpoint=": "analyze/test_known_conflict.py::"
    "test_while_domains_are_not_told_apart_nine_in_ten_signs_are_the_true_ones_over_seeds",
    "llava-moe train exp=conflict adapter=lora": "analyze/test_known_conflict.py::"
    "test_while_domains_are_not_told_apart_nine_in_ten_signs_are_the_true_ones_over_seeds",
    "llava-moe analyze transfer run=runs/demo checkpoint=start": "commands/test_analyze_transfer.py::"
    "test_the_start_of_a_run_and_a_run_without_an_adapter_have_a_transfer",
    "llava-moe analyze routing run=runs/demo checkpoints=": "commands/test_analyze_routing.py::"
    "test_checkpoints_show_what_moves",
    "llava-moe eval run=runs/... benchmarks=[chartqa": "commands/test_eval_benchmarks.py::"
    "test_a_run_is_scored_on_published_benchmarks_and_its_files_say_how",
    "llava-moe eval run=runs/... leaks=true": "commands/test_next_commands.py::"
    "test_a_sweep_ends_with_what_scores_and_compares_its_runs",
    "llava-moe eval run=runs/... benchmarks=[questions.jsonl] leaks=true": "commands/test_own_questions.py::"
    "test_runs_are_compared_on_them_and_a_blind_run_stands_beside",
    "llava-moe eval runs=[runs/a,runs/b] held_out=true": "commands/test_compare.py::"
    "test_runs_that_were_never_scored_are_compared_by_their_losses",
    "llava-moe analyze interference run=runs/demo by=task": "commands/test_analyze_interference.py::"
    "test_another_checkpoint_and_tasks_have_files_of_their_own",
    "llava-moe compare": "commands/test_compare.py::test_every_run_is_made_once_named_by_what_differs_and_measured",
    "llava-moe reproduce": "commands/test_reproduce.py::"
    "test_a_grid_is_made_measured_and_drawn_and_the_same_command_twice_leaves_the_same_bytes",
    "source <(llava-moe completion": "commands/test_completion.py::test_a_real_shell_completes",
    "lmms_eval": "lmms_eval_plugin/test_lmms_eval.py::test_the_model_is_registered_by_its_entry_point",
    "python -m lmms_eval": "lmms_eval_plugin/test_lmms_eval.py::test_the_model_is_registered_by_its_entry_point",
    "tasks=$(python": "lmms_eval_plugin/test_lmms_eval.py::test_rounds_reach_the_task_one_by_one",
}
"""The beginning of commands that are too long for here or no commands of ours, and the test that runs such a one.

Of those of a grid (``compare``, ``reproduce``) the runs are composed here."""
MADE = ("out=runs/demo", "out=runs/stage1", "out=runs/general", "out=runs/documents")
"""What the commands end with whose runs the other commands look into: they are made first."""
NAMES = {
    **{"runs/...": "runs/demo", "runs/a": "runs/general", "runs/b": "runs/documents", "runs/lora": "runs/general"},
    **{"FOLDER": "mine", "KEY": "seed"},
}
"""What a page leaves to the reader, and what it is here."""


def test_a_command_that_is_not_run_here_is_marked_or_has_a_test_of_its_own() -> None:
    shown = [*shown_commands()]
    wrong = [one.place for one in shown if one.words[0] != "llava-moe" and not (one.needs or elsewhere(one))]
    assert not wrong, "say `# needs ...` behind the command, or name its test"
    assert len([one for one in shown if one.needs]) >= 8
    assert not [start for start in ELSEWHERE if start not in {elsewhere(one) for one in shown}]
    for path, _, name in (named.partition("::") for named in ELSEWHERE.values()):
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8")


def elsewhere(command: Shown) -> str:
    """The beginning in ``ELSEWHERE`` of a command; "": it runs here alone."""
    text = " ".join(command.words)
    return next((start for start in ELSEWHERE if text.startswith(start)), "")


def pages() -> dict[str, list[Shown]]:
    """The commands that run here, by their page."""
    found: dict[str, list[Shown]] = {}
    for command in shown_commands():
        grid = command.words[1:2] in (("compare",), ("reproduce",))
        if command.words[0] == "llava-moe" and not command.needs and (grid or not elsewhere(command)):
            found.setdefault(command.page, []).append(command)
    return found


@dataclass
class Workplace:
    """The folder in which the pages are followed, and what was typed there: nothing is run twice."""

    folder: Path
    done: set[tuple[str, ...]]


@pytest.fixture(scope="module")
def workplace(embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One's own files under the names that the pages give them, and the runs that the commands look into."""
    place = Workplace(tmp_path_factory.mktemp("followed"), set())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
        patch.chdir(place.folder)
        write_files(place.folder)
        for command in (one for commands in pages().values() for one in commands):
            words = typed(command, place.folder)
            if {*words} & {*MADE} and words not in place.done:
                place.done.add(words)
                assert run([*words]) == 0, command.place
        for made in ("runs/general", "runs/documents"):  # each answers what pages then compare
            assert run(["eval", f"run={made}", "benchmarks=[demo,questions.jsonl]", *SHORT["eval"]]) == 0
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("page", pages())
def test_every_command_of_a_page_that_needs_no_more_than_a_laptop_runs(
    page: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace.folder)
    wrong = []
    for command in pages()[page]:
        words = typed(command, workplace.folder)
        if words in workplace.done:
            continue
        workplace.done.add(words)
        if words[0] == "init":  # which overwrites nothing
            (workplace.folder / "mix.yaml").unlink()
        status = run([*words])
        told = capfd.readouterr().err
        wrong += [f"{command.place}\n{told}"] if status else []
    assert not wrong, "\n".join(wrong)


def typed(command: Shown, given: Path) -> tuple[str, ...]:
    """The words of a command as they are typed here, made small."""
    placed = [re.sub("(?<==)/data/", f"{given}/data/", word) for word in command.words[1:]]
    for name, made in NAMES.items():
        placed = [re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w/])", made, word) for word in placed]
    return made_small(placed)


def write_files(folder: Path) -> None:
    """What the pages take for there: three files, what the pages show, one's own questions, downloads."""
    write_three_files(folder)
    write_shown_files(folder)
    turns = [{"role": "user", "content": "<image>\nWhich?"}, {"role": "assistant", "content": "A boot"}]
    questions = [{"id": str(n), "messages": turns, "images": [f"{n}.png"]} for n in range(3)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    # The mixture that a page shows looks beside itself; `init`, which another page runs first or not, looks everywhere.
    for place in (folder / "pictures", folder):
        shutil.copytree(folder / "snaps", place, dirs_exist_ok=True)
    shutil.copy(folder / "charts.json", folder / "train.json")
    for name, given in (("general.json", "charts.json"), ("documents.jsonl", "photos.jsonl")):
        shutil.copy(folder / given, folder / "mine" / name)
    shutil.copy(folder / "scans.parquet", folder / "mine" / "medical.parquet")
    for name in ("photos", "folder", "mine/photos", "mine/charts"):
        (folder / name).symlink_to(folder / "pictures")
    (folder / "llava_moe").symlink_to(ROOT / "llava_moe")  # a path of the clone
    for recipe in ("m3it", "pathvqa", "sharegpt4v_ft", "ureader"):
        write_raw(recipe, folder / "data" / "raw" / recipe)
