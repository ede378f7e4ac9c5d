"""docs/support.md is what the tests say, and no cell of it names a test that is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support_matrix import (
    NOT_TESTED,
    PAGE,
    PRECISIONS,
    ROOT,
    Combination,
    cases_of,
    declared,
    every_node,
    hold_to_the_matrix,
    page,
)

PARTS = ("trained", "engines_alone", "adapters_alone")


def test_the_page_is_what_the_program_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.support_matrix"


def test_every_test_of_the_matrix_is_collected_with_its_parameters(request: pytest.FixtureRequest) -> None:
    wanted = every_node()
    assert len(wanted) == len(set(wanted)) > 60
    # All tests are here already where the whole suite runs.
    missing = set(wanted) - {item.nodeid for item in request.session.items}
    if missing:
        files = sorted({node.partition("::")[0] for node in missing})
        asked = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
        told = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
        missing -= set(told.stdout.splitlines())
    assert not missing


def test_every_value_of_a_combination_is_one_of_its_axis() -> None:
    stages = declared()["stages"]
    for part in PARTS:
        for case in cases_of(part):
            for one in case.combinations:
                assert one.engine in (declared()["engines"] if part != "adapters_alone" else [""]), case
                assert one.adapter in (stages[one.stage]["adapters"] if part != "engines_alone" else [""]), case
                assert one.precision in PRECISIONS and {one.recomputation, one.resume} <= {False, True}, case


def test_every_engine_adapter_and_stage_of_the_package_stands_on_the_page() -> None:
    configs = ROOT / "configs"
    assert declared()["adapters"].keys() == {path.stem for path in (configs / "adapter").glob("*.yaml")}
    engines = {path.stem for path in (configs / "parallel").glob("*.yaml")} - {"auto", "auto_zero2"}
    assert engines <= declared()["engines"].keys()
    # LLaVA-MoLE's rates are those of stage 2.
    stages = {path.stem for path in (configs / "stage").glob("*.yaml")} - {"instruct_llava_mole"}
    assert declared()["stages"].keys() == stages


def test_a_combination_that_no_test_has_reads_not_tested() -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| LoRA | fp32 |")]
    ((*_, last),) = rows
    engines = list(declared()["engines"])
    found = dict(zip(engines, [*rows[0][2:-1], last.removesuffix(" |")], strict=True))
    assert found["zero1"] == found["zero3_offload"] == NOT_TESTED
    assert {one for one, cell in found.items() if cell != NOT_TESTED} == {
        one.engine
        for case in cases_of("trained")
        for one in case.combinations
        if one == Combination(one.engine, "lora")
    }


def test_an_answer_that_refuses_is_looked_for_by_its_test() -> None:
    for one in declared()["refused"]:
        path, _, name = one["test"].partition("::")
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"def {name}(" in source and one["looked_for"] in source and one["looked_for"] in one["says"], one


def test_a_test_whose_runs_are_of_another_combination_is_told(tmp_path: Path) -> None:
    node = "tests/commands/test_train.py::test_other_adapters_train_by_one_word[lora]"
    run = tmp_path / "run"

    def write(adapter: str = "Lora", dtype: str = "fp32", engine: str = "local") -> None:
        run.mkdir(exist_ok=True)
        config = {
            "adapter": {"_target_": f"llava_moe.adapters.{adapter}"},
            "stage": {"name": "instruct", "learning_rates": {"adapter": 1e-3}},
            "train": {"dtype": dtype, "activation_checkpointing": False},
            "parallel": {"stage": 2, "offload_optimizer": False, "offload_parameters": False},
        }
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        (run / "environment.json").write_text(json.dumps({"engine": engine}))
        (run / "log.jsonl").write_text("")

    with pytest.raises(AssertionError, match=r"support\.yaml says"):
        hold_to_the_matrix(node, tmp_path)
    write()
    hold_to_the_matrix(node, tmp_path)
    for other in ({"adapter": "MixLora"}, {"dtype": "bf16"}, {"engine": "ddp"}, {"engine": "deepspeed"}):
        write(**other)
        with pytest.raises(AssertionError, match=r"support\.yaml says"):
            hold_to_the_matrix(node, tmp_path)
    hold_to_the_matrix("tests/commands/test_train.py::test_of_which_nothing_is_said", tmp_path)
