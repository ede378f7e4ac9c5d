"""Held-out losses of runs that were measured: of the model that is there now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_moe.commands.eval_losses import compare_losses, read_losses
from llava_moe.files import checkpoints


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was measured record by record at step 4, and validated at step 8."""
    monkeypatch.setattr(checkpoints, "is_complete", Path.is_dir)
    records = [{"key": f"k{n}", "domain": "charts", "tokens": 4, "nats": 8.0 + n} for n in range(3)]
    told: dict[str, object] = {
        "parameters": 1,
        "flops_per_token": None,
        "records": records,
        "questions": [],
        "curve": {},
    }
    (tmp_path / "checkpoints" / "step-000004").mkdir(parents=True)
    (tmp_path / "measured.json").write_text(json.dumps(told | {"checkpoint": "step-000004"}))
    line = {"step": 8, "domains": {"charts": {"loss": 1.5}}, "benchmarks": {}}
    (tmp_path / "validation.jsonl").write_text(json.dumps(line) + "\n")
    return tmp_path


def test_what_was_measured_before_a_run_was_trained_for_longer_is_not_its_loss(run: Path) -> None:
    measured = read_losses(run)
    assert (measured.told, dict(measured.means)) == ("record by record", {"charts": 27 / 12})
    (run / "checkpoints" / "step-000008").mkdir()
    longer = read_losses(run)
    assert (longer.told, dict(longer.means)) == ("validation at step 8", {"charts": 1.5})


def test_records_that_were_cut_elsewhere_give_no_interval(run: Path) -> None:
    whole = read_losses(run)
    path = run / "measured.json"
    path.write_text(path.read_text().replace('"tokens": 4', '"tokens": 3'))
    for other, has_interval in ((whole, True), (read_losses(run), False)):
        compared = compare_losses([whole, other])
        assert compared is not None
        assert (compared.rows[0].cells[1].difference_interval is not None) is has_interval
