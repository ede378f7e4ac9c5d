"""No check of what users bring is an assertion: with assertions switched off, the same lines are told."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llava_moe
from tests.model.tiny_checkpoints import rewrite, write_llava

Refused = Callable[..., str]
PACKAGE = Path(llava_moe.__file__).parent

# Python's -O would compile torch and all else that is loaded a second time, which takes longer than all that is told:
# only the package's own modules are compiled as -O compiles them.
RUN_ALL = """
import contextlib, importlib.machinery, io, json, sys

class WithoutAssertions(importlib.machinery.SourceFileLoader):
    def get_code(self, name):
        return compile(self.get_data(self.path), self.path, "exec", dont_inherit=True, optimize=1)

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] != "llava_moe":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = WithoutAssertions(spec.loader.name, spec.loader.path)
        return spec

sys.meta_path.insert(0, Finder)
from llava_moe.cli import run
told = []
for words in json.load(open(sys.argv[1])):
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = run(words)
    told.append([status, errors.getvalue()])
for name, module in sorted(sys.modules.items()):
    assert not name.startswith("llava_moe") or isinstance(module.__loader__, WithoutAssertions), name
json.dump(told, open(sys.argv[2], "w"))
"""


def bad_folders(folder: Path, tokenizer_folder: Path) -> dict[str, str]:
    """Folder -> what is told of it."""
    told = {
        "other tower": "a vision tower of type dinov2",
        "other language": "a language model of type opt",
        "odd layer": "vision_feature_layer=9",
        "odd token": "no row of its table",
        "odd padding": "pad_token_id=1000000 of its config.json is no token of the 640",
        "odd heads": "cannot be",
        "original": "of the original LLaVA code",
    }
    for name in told:
        write_llava(folder / name, tokenizer_folder)
    config = json.loads((folder / "odd heads" / "config.json").read_text())
    changes: dict[str, dict[str, Any]] = {
        "other tower": {"vision_config": {"model_type": "dinov2"}},
        "other language": {"text_config": {"model_type": "opt"}},
        "odd layer": {"vision_feature_layer": 9},
        "odd token": {"image_token_index": 10**6},
        "odd padding": {"text_config": config["text_config"] | {"pad_token_id": 10**6}},
        "odd heads": {"text_config": config["text_config"] | {"num_attention_heads": 3}},
        "original": {"model_type": "llava_llama"},
    }
    for name, change in changes.items():
        rewrite(folder / name / "config.json", **change)
    return told


def bad_commands(tmp_path: Path, tokenizer_folder: Path, tiny_words: list[str]) -> list[tuple[list[str], str]]:
    """Words, and what is told of them."""
    commands = [
        (["chat", f"model.path={tmp_path / name}", "prompt=a"], told)
        for name, told in bad_folders(tmp_path, tokenizer_folder).items()
    ]
    train = ["train", *tiny_words, "adapter=lora"]
    joining = tmp_path / "joining"
    write_joining_tokenizer(joining)
    layers = ["stage=pretrain_sharegpt4v", "adapter=none", "stage.demo.vision_layers=[0,9]"]
    return [
        *commands,
        (
            [*train, "model.architecture.text.num_attention_heads=5"],
            "text: ValueError: The hidden size (64)",
        ),
        ([*train, "+model.architecture.text.pad_token_id=99999"], "unknown key"),
        ([*train, "model.architecture.vision.patch_size=0"], "the vision tower has image_size=32, patch_size=0"),
        ([*train, "model.architecture.vision.patch_size=64"], "the image no smaller than a patch"),
        ([*train, *layers, "data.max_bad_share=1"], "stage.vision_layers=[0, 9]: the tower's layers that are read"),
        ([*train, f"model.architecture.tokenizer={joining}"], f"tokenizer {joining} makes one token"),
        (["plan", *train[1:], "model.architecture.text.num_attention_heads=5"], "The hidden size (64)"),
    ]


def write_joining_tokenizer(folder: Path) -> None:
    """A BPE that never splits at blanks and makes one token of ``: r``, across the edge of what is supervised."""
    from tokenizers import AddedToken, Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    characters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    pieces = ["<unk>", "<s>", "</s>", *characters, ": ", ": r", ": t", ": Y"]
    merges = [(":", " "), (": ", "r"), (": ", "t"), (": ", "Y")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in ("<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def test_bad_input_is_told_in_the_same_line_with_assertions_switched_off(
    tmp_path: Path, tokenizer_folder: Path, tiny_words: list[str], refused: Refused
) -> None:
    commands = bad_commands(tmp_path, tokenizer_folder, tiny_words)
    (tmp_path / "commands.json").write_text(json.dumps([words for words, _ in commands]))
    places = [str(tmp_path / name) for name in ("commands.json", "told.json")]
    subprocess.run([sys.executable, "-c", RUN_ALL, *places], check=True, capture_output=True)
    found = json.loads(Path(places[1]).read_text())
    for (words, told), (status, line) in zip(commands, found, strict=True):
        assert refused(*words) == line and status == 2
        assert told in line, line


def test_no_assertion_error_is_raised_by_hand() -> None:
    found = [
        f"{path}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for raised in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(raised, ast.Raise)
        for node in ast.walk(raised)
        if isinstance(node, ast.Name) and node.id == "AssertionError"
    ]
    assert not found, "say whose it is to fix: UserError, BadRecord or ValueError"
