"""Every key is described once: its words in the file that writes it, its limits where they are enforced."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.core.router import ROUTER_MODES
from llava_moe.adapters.methods.mole_units import GRANULARITIES
from llava_moe.assemble import ADAPTERS, ARCHITECTURES
from llava_moe.cli import run
from llava_moe.commands.help import all_words
from llava_moe.commands.help_page import page
from llava_moe.commands.table import COMMANDS as ALL_COMMANDS
from llava_moe.commands.table import SECOND_WORDS
from llava_moe.commands.words.reproduce import with_scale, with_size
from llava_moe.config.choices import names_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.key_descriptions import COMMANDS, SOURCE_KEY, TYPED, NameIn, keys_of, limits_of, spoken
from llava_moe.config.key_limits import SOURCE, TARGETS
from llava_moe.config.known_keys import dotted, source_keys
from llava_moe.config.limits import Either, Limit, ListOf, OneOf, OrNull, Real, Whole
from llava_moe.data.readers.formats import FORMATS
from llava_moe.data.records import Source
from llava_moe.errors import UserError
from llava_moe.model.attention import CHOICES
from llava_moe.text.structured_text import parse_yaml, yaml_comments

Refused = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
NO_KEYS = {"data", "analyze", "ls", "help", "completion", "doctor"}
"""Commands whose second words have the keys, or that have none."""


def names(command: str) -> set[str]:
    return {key.name for key in keys_of(command)}


def test_every_key_has_words_and_a_limit() -> None:
    lacking = [
        f"{command} {key.name}"
        for command in COMMANDS
        for key in keys_of(command)
        if len(key.words.split()) < 2 or key.limit is None
    ]
    assert not lacking, f"a comment behind the key in configs/, a limit beside the command's others: {lacking}"


def test_every_command_and_every_limit_has_its_key() -> None:
    with_keys = {spoken(command).split()[0] for command in COMMANDS} | {
        spoken(command).split()[1] for command in COMMANDS if "_" in command
    }
    seconds = {second for of in SECOND_WORDS.values() for second in of}
    assert {*ALL_COMMANDS} - NO_KEYS | seconds <= with_keys
    for command in COMMANDS:
        known = {key.setting for key in keys_of(command)}
        # A section that is held to be a mapping has its keys below it.
        gone = {one for one in limits_of(command) if not any(f"{key}.".startswith(f"{one}.") for key in known)}
        assert not gone, command
    assert {SOURCE_KEY + one for one in SOURCE} == {one for one in names("train") if one.startswith(SOURCE_KEY)}


def composed(*words: str) -> list[str]:
    config = OmegaConf.to_container(compose(words[0], [*words[1:]]), resolve=False)
    return dotted({key: value for key, value in config.items() if key != "hydra"})  # type: ignore[union-attr]


def test_every_key_that_a_configuration_has_is_described() -> None:
    known = {command: {key.setting for key in keys_of(command)} for command in COMMANDS}
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        chosen = [(group, name) for group in ("adapter", "model", "stage", "parallel") for name in names_of(group)]
        found = {("train", key) for group, name in chosen for key in composed("train", f"{group}={name}")}
        found |= {
            (command, key) for command in COMMANDS if command not in ("train", "init") for key in composed(command)
        }
    open_ended = ("data.sources", "model.architecture.vision.", "model.architecture.text.", "stages")
    for command, key in sorted(found):
        if "_target_" in key or (command == "train" and key.startswith(open_ended)):
            continue
        below = any(one.startswith(f"{key}.") or key.startswith(f"{one}.") for one in known[command])
        assert key in known[command] or below, f"{command}: {key}"


def test_a_sources_keys_are_those_that_are_read_with_their_defaults() -> None:
    described = {key.name.removeprefix(SOURCE_KEY): key for key in keys_of("train") if key.name.startswith(SOURCE_KEY)}
    assert {*described} == {*source_keys()}
    for field in dataclasses.fields(Source):
        if field.name in described and field.default is not dataclasses.MISSING:
            shown = {None: "null", False: "false"}.get(field.default, str(field.default))
            assert described[field.name].values[0][0] == shown, field.name
    assert all(name in described["format"].words for name in FORMATS)


def test_a_scale_is_typed_as_scale() -> None:
    assert TYPED["reproduce", "size"] == with_scale("size=").removesuffix("=") == "scale"
    assert with_size("scale=full") == "size=full"


def beyond(limit: Limit) -> Iterable[Any]:
    """Values just outside."""
    if isinstance(limit, OrNull):
        yield from beyond(limit.limit)
    elif isinstance(limit, Whole):
        yield from (limit.lowest - 1, limit.lowest + 0.5)
    elif isinstance(limit, Real):
        yield limit.lowest if limit.open_below else limit.lowest - 1
        yield from [] if limit.highest == float("inf") else [limit.highest * (1 if limit.open_above else 1.5)]
    elif isinstance(limit, OneOf):
        yield 2
    elif isinstance(limit, ListOf):
        yield "text"
    elif isinstance(limit, Either):
        yield 0.5


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_the_command_line_refuses_the_class_itself_refuses(target: str) -> None:
    kind: type[Any] = {**ADAPTERS, **ARCHITECTURES}[target]
    needed = {"experts": ["runs/one"]} if target.endswith(".Mole") else {}
    fields = {field.name for field in dataclasses.fields(kind)}
    if target in ADAPTERS:
        assert {*TARGETS[target]} == fields
    assert {*TARGETS[target]} <= fields
    for name, limit in TARGETS[target].items() if target in ADAPTERS else ():
        for value in beyond(limit):
            assert not limit.admits(value), (name, value)
            if first_misfit(kind, {name: value}) is None:
                with pytest.raises((UserError, TypeError, ValueError)):
                    kind(**needed | {name: value})
        inner = limit.limit if isinstance(limit, OrNull) else limit
        for option in inner.options if isinstance(inner, OneOf) else ():
            assert first_misfit(kind, {name: option}) is None
            kind(**needed | {name: option})


def test_the_choices_of_the_command_line_are_all_that_there_are() -> None:
    assert TARGETS["llava_moe.adapters.LlavaMole"]["router"] == OneOf(ROUTER_MODES)
    assert TARGETS["llava_moe.adapters.Mole"]["granularity"] == OneOf(GRANULARITIES)
    assert limits_of("train")["model.attn_implementation"] == OneOf(CHOICES)


def test_every_value_that_a_file_gives_is_one_that_its_key_takes() -> None:
    for command in COMMANDS:
        for key in keys_of(command):
            for text, _ in key.values if not isinstance(key.limit, NameIn) else ():
                if text is None or "${" in text or (command, key.name) == ("train", "stages"):
                    continue
                # YAML wants a dot in a number.
                value = parse_yaml(re.sub(r"\b(\d)e-", r"\1.0e-", text))
                assert key.limit is not None and key.limit.admits(value), (command, key.name, text)


def test_the_page_of_all_keys_is_up_to_date() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == page(), "llava-moe help --markdown > docs/configuration.md"


def shown(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert run(["help", *words]) == 0
    return " ".join(capfd.readouterr().out.split())


def test_a_key_is_told_with_its_meaning_its_bounds_its_default_and_where_it_is_set(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ratio = shown(capfd, "train.warmup_ratio")
    assert "takes a number of at least 0 and at most 1 default 0.03" in ratio and "share of the steps" in ratio
    rank = shown(capfd, "adapter.r=8")
    assert "32 with adapter=lora 16 with exp=demo_instruct adapter=lora 128 with exp=llava_mix665k" in rank
    assert "how many of them serve an example" in rank
    assert "0.0 with exp=" in shown(capfd, "train.gradient_clipping")
    assert "of llava-moe ls adapter: llava_mole, lora, mixlora, mole, none" in shown(capfd, "adapter").replace(
        "names", ""
    )
    assert "data.sources.NAME.split" in shown(capfd, "data.sources.mine.split")
    assert "rate of each part" in shown(capfd, "stage.learning_rates.projector")
    sources = shown(capfd, "data.sources")
    assert all(f"data.sources.NAME.{name}" in sources for name in ("path", "split", "weight"))
    assert "command eval" in shown(capfd, "eval", "limit") and "chat" not in shown(capfd, "eval", "limit")
    assert "at_once 1 runs at a time" in shown(capfd, "reproduce")


def test_a_section_and_a_command_list_their_keys_in_eighty_columns(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["help", "train"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    told = " ".join(lines)
    assert all(name in told for name in names("train") if name.startswith("train.")) and "init_from" in told
    both = shown(capfd, "eval")
    assert "eval.held_out_limit" in both and "llava-moe eval" in both and "benchmark_root" in both
    how = shown(capfd)
    assert "llava-moe help KEY" in how and all(spoken(command) in how for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian.epochs"], "unknown key trian.epochs (did you mean train.epochs?): llava-moe help lists them"),
        (["lr"], "unknown key lr (did you mean stage.learning_rates.adapter?)"),
        (["data", "check", "strickt"], "unknown key strickt of data check (did you mean strict?)"),
        (["stage.learning_rates.lora"], "unknown key stage.learning_rates.lora"),
        (["ls"], "ls has no keys: llava-moe ls --help tells what it does"),
        (["seed", "out"], "one key, section or command at a time: leave out out"),
    ],
)
def test_what_is_no_key_is_answered_with_the_nearest(words: list[str], told: str, refused: Refused) -> None:
    assert told in refused("help", *words)


def test_help_is_answered_without_loading_hydra_or_torch() -> None:
    check = (
        "import sys; from llava_moe.cli import run; assert run(['help', 'train.warmup_ratio']) == 0; "
        "assert not {'torch', 'transformers', 'hydra', 'numpy'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", check], env=environment, check=True, stdout=subprocess.DEVNULL)


def test_words_that_may_follow_help_are_keys_sections_and_commands() -> None:
    assert {"train.warmup_ratio", "train", "reproduce", "at_once", "adapter.r"} <= {*all_words()}


def test_a_comment_belongs_to_the_key_before_it() -> None:
    text = (
        "# of the file\na: 1   # one\nb:     # a section\n  c: {d: 1}  # c's\n             # goes on\n"
        "  e: '# no comment'\n"
        "f:\n  - g: 1   # in a list\n"
    )
    assert yaml_comments(text) == {
        "a": "one",
        "b": "a section",
        "b.c": "c's goes on",
        "b.e": "",
        "f": "",
        "f.g": "in a list",
    }
