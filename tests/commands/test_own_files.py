"""Our own files with a bad byte, cut, or of another shape: one line that names the file, whatever command reads it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llava_moe.assemble import read_config
from llava_moe.cli import run
from llava_moe.errors import UserError
from llava_moe.files.checkpoints import pointed_at
from llava_moe.files.our_files import misfit, read_object, read_objects

Refused = Callable[..., str]
Damage = Callable[[bytes], bytes]
CHECKPOINT = "checkpoints/step-000002"


@pytest.fixture(scope="module")
def scored_run(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        words = [*words_for_tiny, f"out={folder / 'run'}", "train.save_every=2", "train.max_steps=4"]
        held_out = ["data.held_out=0.3", "eval.every=2", "eval.best=held_out_loss"]
        assert run(["train", *words, *held_out]) == 0
        assert run(["eval", f"run={folder / 'run'}", "benchmarks=[demo]", "limit=1"]) == 0
    return folder / "run"


@pytest.fixture
def unfinished(scored_run: Path, tmp_path: Path) -> Path:
    """The run as a kill before its last checkpoint would have left it."""
    folder = shutil.copytree(scored_run, tmp_path / "run")
    (folder / "finished.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-000004")
    (folder / "checkpoints" / "last").write_text("step-000002\n")
    return folder


@pytest.fixture
def resume(words_for_tiny: tuple[str, ...], unfinished: Path) -> list[str]:
    words = [*words_for_tiny, f"out={unfinished}", "train.save_every=2", "train.max_steps=4"]
    return ["train", *words, "data.held_out=0.3", "eval.every=2", "eval.best=held_out_loss"]


def bad_byte(content: bytes) -> bytes:
    middle = content.index(b"\n", len(content) // 3) if content.count(b"\n") > 2 else len(content) // 2
    return content[: middle - 2] + b"\xff" + content[middle - 2 :]


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 3]


def another_kind(content: bytes) -> bytes:
    return b"[1, 2]\n" + (content if content.count(b"\n") > 2 else b"")


def without_keys(content: bytes) -> bytes:
    return b"{}\n" + (content if content.count(b"\n") > 2 else b"")


def other_types(content: bytes) -> bytes:
    """Every value of the first object of another type."""
    text = content.decode()
    is_lines = text.count("\n") > 1 and text.startswith('{"')
    told = json.loads(text.split("\n")[0] if is_lines else text)
    other = json.dumps({key: 1 if isinstance(value, str | dict | list) else "x" for key, value in told.items()})
    return (other + "\n" + (text if is_lines else "")).encode()


JSON = (bad_byte, cut, another_kind, without_keys, other_types)
LINES = (bad_byte, another_kind, without_keys, other_types)
WORDS = {
    "eval": ["eval", "benchmarks=[demo]", "limit=1"],
    "export": ["export", "to=peft", "out=exported"],
    "chat": ["chat", "prompt=hello"],
}


def with_types(name: str, damages: tuple[Damage, ...], *commands: str) -> list[tuple[str, Damage, str]]:
    return [(name, damage, command) for command in commands for damage in damages]


CASES = [
    *with_types("environment.json", JSON, "train"),
    *with_types("environment.json", (cut,), "eval"),
    *with_types(f"{CHECKPOINT}/state.json", (cut, other_types), "train"),
    *with_types(f"{CHECKPOINT}/state.json", (without_keys,), "export"),
    *with_types("checkpoints/last", (bad_byte,), "train", "chat", "export"),
    *with_types("config.yaml", (bad_byte, another_kind), "eval", "chat", "export"),
    *with_types(".config.json", (bad_byte, another_kind), "train"),
    *with_types("eval/demo.answers.jsonl", (bad_byte, other_types), "eval", "compare"),
    *with_types("eval/demo.json", JSON, "compare"),
    *with_types("eval/results.json", (cut,), "eval"),
    *with_types(f"{CHECKPOINT}/adapter/adapter_config.json", (bad_byte, another_kind), "eval", "chat"),
]


@pytest.mark.parametrize(
    ("name", "damage", "command"), CASES, ids=[f"{name}-{damage.__name__}-{command}" for name, damage, command in CASES]
)
def test_a_damaged_file_is_one_line_that_names_it(
    name: str,
    damage: Damage,
    command: str,
    scored_run: Path,
    unfinished: Path,
    resume: list[str],
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(unfinished.parent)
    path = unfinished / name
    path.write_bytes(damage(path.read_bytes()))
    if command == "train":
        words = resume
    elif command == "compare":
        words = ["eval", f"runs=[{unfinished},{scored_run}]"]
    else:
        words = [*WORDS[command], f"run={unfinished}"]
    line = refused(*words)
    assert path.name in line, line


def test_lines_that_a_kill_cut_short_are_left_out_and_the_run_goes_on(unfinished: Path, resume: list[str]) -> None:
    for name in ("log.jsonl", "validation.jsonl", "quarantine.jsonl"):
        with (unfinished / name).open("ab") as file:
            file.write(b'{"step": 3, "lo\xff')
    assert run(resume) == 0
    steps = [json.loads(line)["step"] for line in (unfinished / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_damaged_lines_of_an_account_are_kept_beside_it_and_the_run_goes_on(
    unfinished: Path, resume: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    entry = {"source": "mine", "domain": "general", "index": 0, "id": "a", "reason": "r", "detail": "d"}
    (unfinished / "quarantine.jsonl").write_text(f"{json.dumps(entry)}\n" * 4)
    for name in ("log.jsonl", "validation.jsonl", "quarantine.jsonl"):
        path = unfinished / name
        good = path.read_bytes()
        line = good.split(b"\n")[0]
        deep, digits = b'{"step": ' + b"[" * 1000, b'{"step": ' + b"9" * 5000 + b"}"
        damaged = [bad_byte(line), b"[1, 2]", deep, digits, other_types(line + b"\n").strip()]
        path.write_bytes(b"\n".join(damaged) + b"\n" + good)
    assert run(resume) == 0
    told = capfd.readouterr().out
    for name in ("log.jsonl", "validation.jsonl", "quarantine.jsonl"):
        assert f"{name}: 5 lines (1, 2, 3, 4, 5) are damaged (byte" in told
        assert len((unfinished / f"{name}.damaged").read_bytes().splitlines()) == 5
        assert all(isinstance(json.loads(line), dict) for line in (unfinished / name).read_text().splitlines())
    steps = [json.loads(line)["step"] for line in (unfinished / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert run(resume) == 0
    assert "5 lines of log.jsonl" in (unfinished / "report.html").read_text()


def test_a_finished_run_with_damaged_lines_still_has_its_report_and_its_export(
    scored_run: Path, resume: list[str], unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unfinished.parent)
    shutil.rmtree(unfinished)
    folder = shutil.copytree(scored_run, unfinished)
    first, second, *rest = (folder / "log.jsonl").read_bytes().split(b"\n")
    damaged = b"\n".join([first, bad_byte(second), *rest])
    (folder / "log.jsonl").write_bytes(damaged)
    assert run(resume) == 0
    assert "1 line of log.jsonl; missing here: step 2" in (folder / "report.html").read_text()
    assert run(["export", f"run={folder}", "to=peft", "out=exported"]) == 0
    assert (folder / "log.jsonl").read_bytes() == damaged


@pytest.mark.parametrize("key", ["model", "stage", "train", "data", "seed", "init_from"])
def test_settings_of_another_type_are_named(key: str, scored_run: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((scored_run / "config.yaml").read_text())
    assert read_config(scored_run).plain == settings
    for value in (settings | {key: [1]}, {name: one for name, one in settings.items() if name != key}):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(value))
        with pytest.raises(UserError, match=rf"config\.yaml has another shape.*{key}"):
            read_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("data.exif", "sideways"), ("data.alpha", None), ("stage.template", "v2")),
        *(("data.sources.mine.value_range", value) for value in (4095, [1], [9, 0], ["low", "high"])),
    ],
)
def test_settings_that_cannot_be_are_named(key: str, value: object, scored_run: Path, tmp_path: Path) -> None:
    settings = node = yaml.safe_load((scored_run / "config.yaml").read_text())
    *above, last = key.split(".")
    for name in above:
        node = next(iter(node.values())) if name == "mine" else node[name]
    node[last] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(UserError, match=r"config\.yaml has another shape"):
        read_config(tmp_path)


def test_a_pointer_that_names_no_checkpoint_is_named_itself(tmp_path: Path) -> None:
    assert pointed_at(tmp_path / "best") is None
    (tmp_path / "best").write_text("step-000002\n")
    assert pointed_at(tmp_path / "best") == "step-000002"
    for content in (b"\xff\n", b"", b"../../elsewhere", b"[1]", b"step-" + b"9" * 400, b"step-1\nstep-2"):
        (tmp_path / "best").write_bytes(content)
        with pytest.raises(UserError, match="best is damaged"):
            pointed_at(tmp_path / "best")


@pytest.mark.parametrize(
    ("value", "shape", "told"),
    [
        ({"a": 1}, {"a": int}, None),
        ({"a": True}, {"a": int}, "a is true or false, not a whole number"),
        ({}, {"a": int}, "a is missing"),
        ({}, {"a?": int}, None),
        ({"a": None}, {"a": (int, type(None))}, None),
        ({"a": {"b": [1, "x"]}}, {"a": {str: [(int, float)]}}, "a.b[1] is text, not a whole number or a number"),
        ([], {}, "it is a list, not an object"),
        ({"a": {}}, {"a": [int]}, "a is an object, not a list"),
    ],
)
def test_a_misfit_is_told_by_its_place(value: object, shape: object, told: str | None) -> None:
    assert misfit(value, shape) == told


def test_deep_nesting_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_object(tmp_path / "a.json", "fix it")
    with pytest.raises(UserError, match=r"b\.json cannot be read \(No such file"):
        read_object(tmp_path / "b.json", "fix it")
    assert read_objects(tmp_path / "b.jsonl", "fix it") == []
