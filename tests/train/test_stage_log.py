"""A stage's folder read for people: what can be read is shown, what cannot is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_moe.errors import UserError
from llava_moe.train.stage_log import (
    DomainAccount,
    ExpertShares,
    StageLog,
    account_domains,
    count_reasons,
    last_expert_shares,
    missing_steps,
    read_stage,
)


def ledger(supervised: int, samples: int = 1) -> dict[str, Any]:
    return {"loss": 1.0, "supervised_tokens": supervised, "samples": samples}


def write_lines(path: Path, *lines: object) -> None:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))


def test_an_empty_folder_is_a_stage_without_anything(tmp_path: Path) -> None:
    assert read_stage(tmp_path) == StageLog(tmp_path.name)


def test_steps_come_in_their_order_and_the_last_line_of_a_step_counts(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", {"step": 2}, {"step": 1, "loss": 9}, {"step": 1, "loss": 1, "seconds": 2.5})
    stage = read_stage(tmp_path)
    assert [step["step"] for step in stage.steps] == [1, 2] and stage.steps[0]["loss"] == 1
    assert stage.seconds == 2.5 and not stage.damaged


def test_everything_else_of_a_folder_is_read_and_no_secret_is_shown(tmp_path: Path) -> None:
    key = "hf_" + "a" * 34
    (tmp_path / "config.yaml").write_text(f"path: {key}\n")
    (tmp_path / "environment.json").write_text('{"command": ["llava-moe"]}')
    write_lines(tmp_path / "quarantine.jsonl", {"domain": "general"})
    write_lines(tmp_path / "validation.jsonl", {"step": 1, "benchmarks": {}})
    stage = read_stage(tmp_path)
    assert stage.config == "path: [hidden]\n" and stage.environment == {"command": ["llava-moe"]}
    assert stage.quarantine == ({"domain": "general"},) and not stage.has_held_out_loss
    write_lines(tmp_path / "validation.jsonl", {"step": 1, "domains": {"general": ledger(1)}, "benchmarks": {}})
    assert read_stage(tmp_path).has_held_out_loss


def test_damaged_lines_are_counted_by_file_with_the_steps_that_are_missing(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", {"step": 1}, '{"step": 2', "{}", {"step": 4}, {"step": 5})
    write_lines(tmp_path / "validation.jsonl", {"step": 1, "benchmarks": {}}, {"step": 2})
    stage = read_stage(tmp_path)
    assert [step["step"] for step in stage.steps] == [1, 4, 5] and len(stage.validations) == 1
    assert stage.damaged == ("2 lines of log.jsonl; missing here: step 2 to 3", "1 line of validation.jsonl")


def test_lines_that_were_set_aside_count_as_damaged(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", {"step": 1}, {"step": 3})
    write_lines(tmp_path / "log.jsonl.damaged", "not JSON")
    assert read_stage(tmp_path).damaged == ("1 line of log.jsonl; missing here: step 2",)


def test_of_many_gaps_five_are_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "log.jsonl", "[]", *({"step": 2 * number} for number in range(1, 9)), {"step": 17})
    told = read_stage(tmp_path).damaged
    assert told == ("1 line of log.jsonl",), "every second step is logged"
    write_lines(tmp_path / "log.jsonl", "[]", {"step": 1}, *({"step": 3 * number} for number in range(1, 9)))
    assert read_stage(tmp_path).damaged == (
        "1 line of log.jsonl; missing here: step 2, 4 to 5, 7 to 8, 10 to 11, 13 to 14 and 3 more stretches",
    )


def test_a_damaged_environment_is_told_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(UserError) as refused:
        read_stage(tmp_path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"{tmp_path / 'environment.json'} is damaged (") and line.endswith("delete that file")


@pytest.mark.parametrize(
    ("logged", "missing"),
    [
        ([1, 2, 3], []),
        ([10, 20, 30, 34], []),
        ([10, 20, 40, 45], [(30, 30)]),
        ([1, 5, 6], [(2, 4)]),
        ([2, 3, 3, 4], [(1, 1)]),
        ([], []),
    ],
)
def test_missing_steps_are_those_between_two_lines_whatever_their_distance(
    logged: list[int], missing: list[tuple[int, int]]
) -> None:
    assert missing_steps(logged) == missing


def test_each_domain_has_its_samples_tokens_and_records_left_out() -> None:
    stage = StageLog(
        "pretrain",
        steps=({"domains": {"general": ledger(10, 2)}}, {"domains": {"medical": ledger(5), "general": ledger(1)}}, {}),
        quarantine=({"domain": "medical"}, {"domain": "documents"}, {"domain": "medical"}),
    )
    assert stage.domains == ("general", "medical")
    assert account_domains(stage) == (
        DomainAccount("general", samples=3, supervised_tokens=11, left_out=0),
        DomainAccount("medical", samples=1, supervised_tokens=5, left_out=2),
        DomainAccount("documents", samples=0, supervised_tokens=0, left_out=1),
    )


def test_reasons_are_counted_by_source_the_most_frequent_first() -> None:
    entries = [{"source": "m3it", "reason": "no_image"}] + [{"source": "docs", "reason": "too_long"}] * 2
    assert count_reasons(StageLog("pretrain", quarantine=tuple(entries))) == (
        ("docs", "too_long", 2),
        ("m3it", "no_image", 1),
    )


def routed(*share: float | None, entropy: float = 0.5) -> dict[str, Any]:
    return {"share": list(share), "entropy": entropy}


def test_expert_shares_are_means_over_the_last_steps_that_have_any() -> None:
    steps = [{"experts": {"low": {"general": routed(1.0, 0.0, entropy=9.0)}}}] * 3
    steps += [{"experts": {"low": {"general": routed(0.25, 0.75), "medical": routed(1.0, 0.0)}}}, {}]
    steps += [{"experts": {"low": {"general": routed(0.75, 0.25, entropy=1.5)}, "high": {"medical": routed(0.0, 1.0)}}}]
    steps += [{"experts": {"low": {"general": routed(None, None)}}}]
    assert last_expert_shares(StageLog("pretrain", steps=tuple(steps)), last=3) == (
        ExpertShares("low", {"general": (0.5, 0.5), "medical": (1.0, 0.0)}, {"general": 1.0, "medical": 0.5}),
        ExpertShares("high", {"medical": (0.0, 1.0)}, {"medical": 0.5}),
    )
