"""The commands that a finished run says next."""

from __future__ import annotations

import shlex
from pathlib import Path

from llava_moe.cli import prepare_override
from llava_moe.commands.reporting import next_commands


def compared(*words: str) -> list[str]:
    command = next_commands(Path("runs/x"), True, [prepare_override(word) for word in words])[1]
    return shlex.split(command, comments=True)


def test_the_run_to_compare_with_is_trained_on_the_users_own_data() -> None:
    own = ["data=mine", "path=it's here/a.json", "images=my images", "--config-dir", "own"]
    assert compared(*own, "out=runs/x") == ["llava-moe", "train", *own, "adapter=lora"]
    assert compared() == ["llava-moe", "train", "adapter=lora"]


def test_lora_is_compared_with_llava_mole_and_no_setting_of_the_other_adapter_stays() -> None:
    assert compared("seed=1", "adapter=lora", "adapter.rank=4") == [
        *("llava-moe", "train", "seed=1", "adapter=llava_mole")
    ]


def test_without_the_words_that_trained_no_command_trains_something_else() -> None:
    assert not [command for command in next_commands(Path("runs/x"), True) if "adapter=" in command]
