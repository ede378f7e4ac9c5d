"""``doctor`` compares versions with the bounds that the suite passed with; nothing refuses to run beyond them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from llava_moe.cli import run
from llava_moe.commands import doctor
from llava_moe.runs.environment import installed


def test_the_tested_ranges_are_those_of_the_package() -> None:
    ranges = doctor.tested_ranges()
    assert "5.23.0" in ranges["transformers"]
    assert "6.0" not in ranges["transformers"]
    assert "2.13.0" in ranges["torch"]


@pytest.mark.parametrize("package", ["transformers", "pillow"])
def test_a_version_that_was_not_tested_is_named_with_its_range(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(doctor, "tested_ranges", lambda: {package: SpecifierSet("<1")})
    assert run(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if package in line]
    assert line.startswith("note") and "not tested" in line and f"pip install '{package}<1'" in line


@pytest.mark.parametrize("width", ["20", "60", "80", "120"])
def test_paths_and_remedies_stand_on_one_line_however_narrow_the_terminal(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    long = tmp_path / ("a folder with a name of some length " * 3).strip()
    long.mkdir()
    monkeypatch.chdir(long)
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(long / "cache"))
    monkeypatch.setattr(doctor, "tested_ranges", lambda: {"pillow": SpecifierSet("<1")})
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for whole in (f"GiB free in {long}", f"GiB free in {long / 'cache'}", "pip install 'pillow<1'"):
        assert any(line.endswith(whole) for line in lines), (whole, lines)
    assert all(line.startswith(("ok ", "note ", "missing ", "   ")) for line in lines)


def test_a_torch_that_cannot_be_loaded_is_a_finding_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["doctor"]) == 2
    told = capsys.readouterr()
    assert told.err == "" and "torch" in next(line for line in told.out.splitlines() if line.startswith("missing"))
    assert "pip install --force-reinstall torch" in told.out


def test_a_package_that_every_run_needs_is_missed_with_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "transformers" else installed(name))
    assert run(["doctor"]) == 2
    assert "missing  transformers" in capsys.readouterr().out
