"""``doctor`` compares versions with the bounds that the suite passed with; nothing refuses to run beyond them."""

from __future__ import annotations

import pytest
from packaging.specifiers import SpecifierSet

from llava_moe.cli import run
from llava_moe.commands import doctor


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
