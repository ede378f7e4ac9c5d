"""What training leaves out by itself is told apart from what only the list leaves out."""

from __future__ import annotations

import json
from pathlib import Path

from llava_moe.datatools.check.eval_sets import open_asked
from llava_moe.datatools.check.left_out import bad_lines, is_emptied, listed_lines
from llava_moe.datatools.check.run_check import check_mix
from tests.datatools.check.conftest import MakeView, say


def test_copies_are_listed_and_only_what_training_refuses_is_bad(make_view: MakeView, pictures: list[str]) -> None:
    record = say(pictures[0], "<image> What?", "noise")
    copies = check_mix([make_view([record, record, record, say(pictures[1], "<image> Who?", "it")])]).findings
    assert copies[0].num_bad == 0 and copies[0].listed_alone == {"duplicate": 2} and not is_emptied(copies[0])
    assert bad_lines(copies, 0.01) == []
    (line,) = listed_lines(copies)
    assert line.startswith("2 records are on the list alone (duplicate 2): training takes them unless")
    both = check_mix([make_view([record, record, say(pictures[1], "<image> Who?", " ")], "both")]).findings
    assert both[0].num_bad == 1 and len(both[0].faults) == 2
    (line,) = bad_lines(both, 0.3)
    assert line.startswith("both: 1 of 3 records are bad, more than data.max_bad_share=0.3, at which training stops")
    assert bad_lines(both, 0.34) == []


def test_a_source_that_only_the_list_empties_can_be_trained_on(
    make_view: MakeView, pictures: list[str], tmp_path: Path
) -> None:
    records = [say(picture, "<image> What?", "noise") for picture in pictures[:3]]
    (tmp_path / "asked.json").write_text(json.dumps(records))
    asked = open_asked(str(tmp_path / "asked.json"), None, tmp_path / "cache", 0)
    checked = check_mix([make_view(records)], [asked])
    (findings,) = checked.findings
    assert checked.troubles == [] and findings.listed_alone == {"leak": 3} and is_emptied(findings)
    assert "mine: the list leaves nothing of it" in listed_lines([findings])[1]
