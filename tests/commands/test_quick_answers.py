"""A typing mistake is answered before anything heavy is loaded, and the first line of a run before it as well."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib", "deepspeed", "peft", "wandb")
# Every mistake in one process, which is fresh: what one of them loaded would still be there at the end.
REPORT = f"""
import contextlib, io, json, sys
from llava_moe.cli import run
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = run(words)
    print(json.dumps([words, status, errors.getvalue(), sorted({set(HEAVY)!r} & set(sys.modules))]))
"""
# A mistake of each kind for each command: of a key, a group's name, a value, a file, a missing word.
MISTAKES = [
    *(["train", word] for word in ("adapter=lorra", "trian.max_steps=3", "data=nosuch", "train.max_steps=three")),
    *(["train", "data=nosuch.yaml"], ["train", "path={a: trian.json}"], ["train", "path={a:b}"]),
    *(["init"], ["init", "mix.yaml", "a=nosuch.json"], ["init", "mix.yaml", "a"], ["completion"]),
    *(["train", "data=mine", "path=trian.json"], ["train", "scale=demo", "init_from=runs/nosuch", "exp=mix_doc"]),
    *(["train", "eval.benchmarks=[demoo]"], ["train", "domains=[nosuch]", "scale=demo", "exp=mix_doc"]),
    *(
        ["plan", word]
        for word in ("adapter=lorra", "device=a100x", "num_devices=two", "devize=cpu", "init_from=nosuch")
    ),
    *(["eval", "run=nosuch"], ["eval", "benchmark=[demo]"], ["eval"], ["eval", "run=x", "limit=-1"]),
    *(["eval", "run=x", "benchmark_paths=text"], ["eval", "run=x", "benchmark_paths=null"]),
    *(["eval", "run=x", "benchmarks=[demoo]"], ["eval", "run=x", "protocol=llava"], ["eval", "runs=[a]", "limit=x"]),
    *(["chat"], ["chat", "runn=x"], ["chat", "run=nosuch"], ["chat", "run=x", "temperature=-1"]),
    *(["export"], ["export", "run=nosuch", "to=hf", "out=x"], ["export", "run=x", "to=onnx"], ["export", "dtipe=x"]),
    *(["compose"], ["compose", "experts=[a]"], ["compose", "experts=[a,b]", "method=tie"], ["compose", "expert=[a,b]"]),
    *(["compose", "run=x"], ["data"], ["data", "chek"], ["data", "check", "dat=mine"]),
    *(["data", "check", "strict=maybe"], ["data", "stats", "adapter=lorra"], ["data", "stats", "ranks=0"]),
    *(["data", "preview", "row=2"], ["data", "preview", "data=mine", "path=trian.json"], ["data", "prepare"]),
    *(
        ["data", "prepare", "recpie=x"],
        ["data", "prepare", "recipe=pathvqaa"],
        ["help", "trian.epochs"],
        ["doctor", "ranks"],
        ["ls", "exps"],
    ),
    *(["trian"], ["train", "--foo"], ["analyze", "nosuch"], ["analyze", "interference"]),
    *(["analyze", "interference", word] for word in ("run=nosuch", "rum=x", "by=records", "exact=[none]")),
    *(
        ["compare"],
        ["compare", "adapter=lora"],
        ["compare", "adapter=[lora,lora]"],
        ["compare", "adapter=[lora,lorra]"],
    ),
    *(["compare", "seed=[0,1]", word] for word in ("trian.max_steps=3", "at_once=0", "data=nosuch.yaml", "only=x")),
    *(["analyze", "routing", "run=x", word] for word in ("checkpoints=some", "checkpoints=[]", "dead_below=2")),
]


def python(program: str, *words: str, folder: Path) -> list[str]:
    """What a program prints in a fresh interpreter, by lines."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, *words]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_a_mistake_is_answered_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    answers = python(REPORT, json.dumps(MISTAKES), folder=tmp_path)
    assert len(answers) == len(MISTAKES)
    for words, status, told, loaded in map(json.loads, answers):
        assert (status, loaded) == (2, []), (words, told)
        assert told.startswith("llava-moe: ") and told.count("\n") == 1, (words, told)
    assert not [*tmp_path.iterdir()]


def test_a_mistake_is_answered_within_a_second_of_the_processors() -> None:
    # By the clock it is as long as the other work on the machine makes it: that bound is a wide one.
    started, spent = time.monotonic(), []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        mistake = [sys.executable, "-m", "llava_moe", "train", "adapter=lorra"]
        assert subprocess.run(mistake, stderr=subprocess.DEVNULL).returncode == 2
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert min(spent) < 1
    assert time.monotonic() - started < 60


def test_the_first_line_of_a_run_stands_before_torch_is_loaded(tiny_words: list[str], tmp_path: Path) -> None:
    # What would train is stopped where its modules are asked for.
    stopped = f"""
import json, sys
sys.modules["llava_moe.commands.train"] = None
from llava_moe.cli import run
assert run(sys.argv[1:]) == 1
print(json.dumps(sorted({set(HEAVY)!r} & set(sys.modules))))
"""
    first, loaded = python(stopped, "train", *tiny_words, "out=runs/a b", folder=tmp_path)
    (path,) = (word.partition("=")[2] for word in tiny_words if word.startswith("path="))
    assert first == f"llava-moe train: exp=mix_general, a model of random weights on {path}, runs/a b"
    assert json.loads(loaded) == []
