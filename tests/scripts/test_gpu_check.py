"""``scripts/gpu_check.py`` on a CPU: it finds what is wrong, keeps to its minutes and claims no figure."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import llava_moe.model.attention as attention
from llava_moe.adapters.core.router import TokenRouter
from llava_moe.adapters.core.wide_linear import WideLinear
from scripts.gpu_check import PARTS, main, run_parts
from scripts.gpu_checks.distances import gradient_distances
from scripts.gpu_checks.report import NOT_ON_A_GPU, Broken, Budget, Check, Report, Skipped, write_evidence
from scripts.gpu_checks.steps import GIB, PEAK, _tell_peak

CPU = torch.device("cpu")


def run(words: Sequence[str]) -> tuple[int, list[str]]:
    """Exit status and lines."""
    with redirect_stdout(io.StringIO()) as written:
        status = main(words)
    return status, written.getvalue().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, list[str], Path]:
    out = tmp_path_factory.mktemp("gpu") / "evidence" / "figures.json"
    return *run(["--tiny", "--out", str(out)]), out


def test_every_part_passes_tiny_on_a_cpu(whole: tuple[int, list[str], Path]) -> None:
    status, lines, _ = whole
    assert status == 0, lines[-5:]
    assert {line.split()[0] for line in lines if line.split()[:1]} >= set(PARTS)
    checked = [line for line in lines if line.endswith(": passed") or ": passed (" in line]
    assert len(checked) >= 40 and lines[-1].startswith(f"{len(checked)} checks passed, 0 failed")
    for adapter in ("lora", "llava_mole", "mixlora"):
        for part in ("precision", "packing"):
            assert any(line.startswith(part) and f" {adapter}, " in line for line in checked), (part, adapter)


def test_a_figure_of_a_cpu_is_not_told_and_no_file_is_written(whole: tuple[int, list[str], Path]) -> None:
    _, lines, out = whole
    assert not out.exists() and not out.parent.exists()
    steps = [line for line in lines if line.startswith("step ")]
    assert len(steps) > 30 and all(NOT_ON_A_GPU in line for line in steps)
    assert sum("plan foretells" in line for line in steps) == 16
    with pytest.raises(ValueError, match="this did not"):
        write_evidence(out, {}, Report(on_gpu=False), is_complete=True)
    assert not out.exists()


def test_without_a_gpu_and_without_tiny_one_line_says_what_to_do(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "figures.json")]) == 2
    told = capsys.readouterr()
    assert "--tiny" in told.err and told.err.count("\n") == 1 and not told.out
    assert not list(tmp_path.iterdir())


def _scale_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = WideLinear.forward

    def wrong(self: WideLinear, x_BTD: torch.Tensor) -> torch.Tensor:
        return forward(self, x_BTD) * (1.1 if x_BTD.dtype == torch.bfloat16 else 1.0)

    monkeypatch.setattr(WideLinear, "forward", wrong)


def _let_examples_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out = attention.lay_out
    monkeypatch.setattr(attention, "lay_out", lambda lengths, device: lay_out((sum(lengths),), device))


def _forget_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    sort = TokenRouter.sort

    def wrong(self: TokenRouter) -> tuple[torch.Tensor, torch.Tensor, Any]:
        order_N, _, runs = sort(self)
        return order_N, order_N, runs

    monkeypatch.setattr(TokenRouter, "sort", wrong)


@pytest.mark.parametrize(
    ("plant", "part", "named"),
    [
        (_scale_in_bf16, "precision", "lora, bf16 against fp32: gradient:"),
        (_forget_the_way_back, "precision", "llava_mole, sorted against masked: loss:"),
        (_let_examples_see_each_other, "packing", "mixlora, fp32: worst token's loss:"),
        (_let_examples_see_each_other, "attention", "packed_sdpa, fp32: loss:"),
    ],
)
def test_a_wrong_result_is_named_with_value_and_bound(
    plant: Callable[[pytest.MonkeyPatch], None], part: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    status, lines = run(["--tiny", "--parts", part])
    assert status == 1
    (line,) = [line for line in lines if line.startswith(f"FAILED {part}: {named}")]
    assert ", at most " in line and "FAILED" in line
    assert " 0 failed" not in "".join(lines)


def test_what_breaks_in_one_part_fails_and_the_next_part_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("an illegal memory access\nwith more")

    monkeypatch.setitem(PARTS, "precision", broken)
    lines: list[str] = []
    report = Report(False, lines.append)
    run_parts(["precision", "attention"], CPU, report, Budget(600))
    assert isinstance(report.findings[0], Broken) and any(isinstance(one, Check) for one in report.findings)
    assert report.close() == 1
    assert any("RuntimeError: an illegal memory access" in line and "with more" not in line for line in lines)


def test_what_does_not_fit_into_the_minutes_is_skipped_and_nothing_of_it_passes() -> None:
    status, lines = run(["--tiny", "--minutes", "0"])
    assert status == 1, "where nothing was checked nothing passed"
    assert "0 checks passed, 0 failed" in lines[-1]
    assert sum("skipped: 0 s are left, it needs 1" in line for line in lines) >= 12
    assert not any(": passed" in line for line in lines)


def test_a_part_is_cut_where_its_minutes_end() -> None:
    ticks = count()
    report = Report(False, lambda _: None)
    # A second a question: the first adapter fits, the others do not.
    run_parts(["precision"], CPU, report, Budget(2.5, clock=lambda: float(next(ticks))))
    assert {one.name.split(",")[0] for one in report.findings if isinstance(one, Check)} == {"lora"}
    assert {one.name.split(",")[0] for one in report.findings if isinstance(one, Skipped)} == {"llava_mole", "mixlora"}


def test_a_peak_that_the_plan_missed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    need: Any = SimpleNamespace(memory=SimpleNamespace(total=GIB))
    for share, failed in ((1 + PEAK / 2, 0), (1 + 2 * PEAK, 1), (1 - 2 * PEAK, 1)):
        report = Report(True, lambda _: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _, share=share: int(share * GIB))
        _tell_peak(torch.device("cuda"), report, "lora", need)
        assert len(report.failed) == failed, share


def test_a_value_that_is_no_number_and_a_missing_gradient_fail() -> None:
    assert not Check("part", "name", float("nan"), 1.0).passed
    assert not Check("part", "name", float("inf"), float("inf")).passed
    ones = {"a": torch.ones(3), "b": torch.ones(2)}
    assert gradient_distances(ones, {"a": torch.ones(3)})[0] == float("inf")
    assert gradient_distances(ones, ones) == (0.0, 0.0, "a")
    whole, worst, name = gradient_distances(ones, {"a": torch.ones(3), "b": torch.tensor([1.0, 2.0])})
    assert (whole, worst) == pytest.approx((5**-0.5, 2**-0.5)) and name == "b"
    assert gradient_distances(ones, ones | {"b": torch.tensor([1.0, float("nan")])})[2] == "b"


def test_what_a_gpu_measured_is_written_behind_each_finding(tmp_path: Path) -> None:
    out = tmp_path / "gpu" / "h200.json"
    machine = {"device": "NVIDIA H200", "commit": "abc"}
    report = Report(True, lambda _: None, lambda report: write_evidence(out, machine, report, is_complete=False))
    report.check("precision", "lora", 0.5, 1.0)
    report.figure("step", "lora: tokens a second", 30_000.0, "/s", 28_000.0)
    told = json.loads(out.read_text())
    assert told["machine"] == machine and told["is_complete"] is False
    first, second = told["findings"]
    assert (first["kind"], first["passed"], first["bound"]) == ("check", True, 1.0)
    assert (second["kind"], second["value"], second["foretold"]) == ("figure", 30_000.0, 28_000.0)
