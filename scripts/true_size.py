"""What ``scripts/true_size.sh`` runs: the commands of a whole experiment at true size, each timed and weighed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GIB = 1 << 30
# One example a step: an image is 576 tokens of each.
COMMON = (
    *("exp=mix_general_doc_med", "data=demo", "model=random_7b", "parallel=single", "train.dtype=bf16"),
    *("train.global_batch_size=1", "train.tokens_per_micro_batch=768", "train.max_length=768", "data.num_workers=0"),
    *("train.activation_checkpointing=true", "eval.benchmarks=[]", "train.save_every=1"),
)
PROJECTOR = ("stage=pretrain", "adapter=none", "data.max_bad_share=1")
HALF_TOWER = ("stage=pretrain_sharegpt4v", "adapter=none", "data.max_bad_share=1")
EXPERTS = ("stage=instruct", "adapter=llava_mole", "adapter.r=32", "adapter.num_experts=3")


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its status, minutes and the most memory that it held."""

    status: int
    minutes: float
    gib: float
    output: str


def has_bf16() -> bool:
    """Whether the processor multiplies bf16 by itself."""
    told = Path("/proc/cpuinfo")
    return told.is_file() and any(one in told.read_text() for one in ("avx512_bf16", "amx_bf16"))


def command(words: Sequence[str]) -> list[str]:
    program = ["-m", "llava_moe"] if has_bf16() else [str(HERE / "bf16_on_cpu.py")]
    return [sys.executable, *program, *words]


def run(words: Sequence[str], kill_at: Path | None = None) -> Ended:
    """Run a command to its end, or kill it once a file is there."""
    began = time.monotonic()
    process = subprocess.Popen(command(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if kill_at is not None:
        while not kill_at.exists() and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    output = process.stdout.read()
    _, waited, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, 0, None)
    status = process.returncode if usage is None else os.waitstatus_to_exitcode(waited)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if usage is None else usage.ru_maxrss
    return Ended(status, (time.monotonic() - began) / 60, peak * 1024 / GIB, output)


def tell(name: str, ended: Ended, expected: int = 0, planned: float | None = None) -> None:
    beside = "" if planned is None else f", planned {planned:.1f}"
    sys.stdout.write(f"{name:<34}{ended.minutes:7.1f} min {ended.gib:6.1f} GiB{beside}  status {ended.status}\n")
    sys.stdout.flush()
    if ended.status != expected:
        raise SystemExit(f"true_size: {name} ended with {ended.status}, expected {expected}:\n{ended.output[-4000:]}")


def planned_gib(words: Sequence[str], out: Path) -> float | str:
    """GiB of the peak by ``plan``; what it says where that does not fit."""
    ended = run(["plan", *words, "device=cpu", f"out={out}"])
    if ended.status == 2:
        return next((line for line in ended.output.splitlines() if line.startswith("llava-moe:")), ended.output)
    if ended.status:
        raise SystemExit(f"true_size: plan ended with {ended.status}:\n{ended.output[-4000:]}")
    (stage,) = json.loads((out / "plan.json").read_text())["stages"]
    return float(stage["needs"][0]["memory"]["total"]) / GIB


def train(name: str, words: Sequence[str], out: Path) -> Path | None:
    """Train two steps, or say why they do not fit; the run's folder."""
    planned = planned_gib(["train.max_steps=2", *words], out.with_name(f"{out.name}-plan"))
    if isinstance(planned, str):
        sys.stdout.write(f"{name:<34}not run: {planned}\n")
        return None
    tell(name, run(["train", *words, "train.max_steps=2", f"out={out}"]), planned=planned)
    return out


def main() -> None:
    out, layers = Path(sys.argv[1]), int(sys.argv[2])
    if out.exists():
        raise SystemExit(f"true_size: {out} is there already: delete it, or give OUT=")
    words = list(COMMON)
    if layers < 32:
        parts = {"text": layers, "vision": min(layers, 24)}
        words += [f"model.architecture.{part}.num_hidden_layers={count}" for part, count in parts.items()]
    first = train("stage 1, the projector", [*words, *PROJECTOR], out / "projector")
    sharegpt4v = [*words, *HALF_TOWER]
    if layers < 24:
        sharegpt4v.append(f"stage.vision_layers=[{min(layers // 2, layers - 2)},{layers - 2}]")
    train("stage 1 of ShareGPT4V", sharegpt4v, out / "sharegpt4v")
    second = [*words, *EXPERTS, f"init_from={first}"]
    run_folder = out / "experts"
    step = run_folder / "checkpoints" / "step-000001" / "COMPLETE"
    planned = planned_gib(["train.max_steps=2", *second], out / "experts-plan")
    shown = planned if isinstance(planned, float) else None
    killed = run(["train", *second, "train.max_steps=2", f"out={run_folder}"], kill_at=step)
    tell("stage 2, killed behind step 1", killed, expected=-signal.SIGKILL, planned=shown)
    tell("stage 2, gone on", run(["train", *second, "train.max_steps=2", f"out={run_folder}"]), planned=shown)
    question = ["prompt=What is this?", "max_new_tokens=4", "dtype=bf16", f"image={picture(out)}"]
    tell("a question answered", run(["chat", f"run={run_folder}", *question]))
    tell("exported to PEFT", run(["export", f"run={run_folder}", "to=peft", f"out={out / 'peft'}"]))


def picture(out: Path) -> Path:
    """A picture of the demo, as a file."""
    from PIL import Image

    path = out / "picture.png"
    Image.effect_mandelbrot((336, 336), (-2, -1.5, 1, 1.5), 60).convert("RGB").save(path)
    return path


if __name__ == "__main__":
    main()
