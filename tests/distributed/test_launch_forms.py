"""Each way to start a run on two machines trains it, and ``launch_multinode.sh`` stops it on both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_train import num_logged
from tests.distributed.two_hosts import TwoHosts, stand_in_for_ssh, two_hosts, why_not

pytestmark = [
    *(pytest.mark.distributed, pytest.mark.slow),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
NUM_STEPS = 3
SECRET = "hf_" + "x" * 20
# Slurm's part: a task on each machine, told of itself as Slurm tells it, and the worst status of all.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
tasks=()
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=0 bash "$ENTER" "$task" "$@" &
  tasks+=($!)
done
worst=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > worst)) && worst=$code; done
exit "$worst"
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    yield from two_hosts(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def programs(hosts: TwoHosts) -> Path:
    """``ssh``, ``srun``, ``scontrol`` and ``python`` as a machine of a cluster has them."""
    folder = stand_in_for_ssh(hosts, hosts.folder / "programs")
    enter = hosts.folder / "enter"
    cases = "".join(f'  {number}) exec {" ".join(_shell(hosts.prefix(number)))} "$@" ;;\n' for number in (0, 1))
    enter.write_text(f"number=$1\nshift\ncase $number in\n{cases}esac\n")
    for name, text in (("srun", SRUN), ("scontrol", f"#!/bin/bash\n[[ $1 == show ]] && echo {hosts.address(0)}\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def _shell(words: list[str]) -> list[str]:
    return ["'" + word.replace("'", "'\\''") + "'" for word in words]


@pytest.fixture
def environment(hosts: TwoHosts, programs: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    own = {"LLAVA_MOE_CACHE": str(hosts.folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    own |= {"DS_ACCELERATOR": "cpu", "DEEPSPEED_LOG_LEVEL": "error", "ENTER": str(hosts.folder / "enter")}
    return os.environ | own | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def words_of(form: str, words: tuple[str, ...], hosts: TwoHosts) -> list[str]:
    more = [f"train.max_steps={NUM_STEPS}", "train.save_every=2", "parallel=ddp", "parallel.join_seconds=120"]
    return [*words, *more, f"out={hosts.folder / form}"]


def on_each(hosts: TwoHosts, command: list[list[str]], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [*hosts.prefix(number), *command[number]],
            cwd=hosts.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in (0, 1)
    ]


def torchrun(hosts: TwoHosts, words: list[str], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    meeting = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={hosts.address(0)}", "--master-port=29531"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *meeting]
    return on_each(
        hosts,
        [[*launcher, f"--node-rank={number}", "-m", "llava_moe", "train", *words] for number in (0, 1)],
        environment,
    )


def deepspeed(hosts: TwoHosts, words: list[str], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    """DeepSpeed's launcher on each machine by itself: its own ssh needs pdsh."""
    hostfile = hosts.folder / "hostfile"
    hostfile.write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    meeting = ["--hostfile", str(hostfile), "--no_ssh", f"--master_addr={hosts.address(0)}", "--master_port=29532"]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--no_local_rank", *meeting]
    return on_each(
        hosts,
        [[*launcher, f"--node_rank={number}", "--module", "llava_moe", "train", *words] for number in (0, 1)],
        environment,
    )


def slurm(hosts: TwoHosts, words: list[str], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    job = {"SLURM_JOB_ID": "9533", "SLURM_JOB_NODELIST": "ab", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
    return [started(["bash", str(SCRIPTS / "slurm.sbatch"), *words], hosts, {**environment, **job})]


def by_ssh(hosts: TwoHosts, words: list[str], environment: Mapping[str, str]) -> list[subprocess.Popen[str]]:
    hostfile = hosts.folder / "hostfile"
    hostfile.write_text("".join(f"{name} slots=1\n" for name in hosts.names))
    own = {"HOSTFILE": str(hostfile), "MASTER_INTERFACE": "lan", "MASTER_PORT": "29534", "HF_TOKEN": SECRET}
    return [started(["bash", str(SCRIPTS / "launch_multinode.sh"), *words], hosts, {**environment, **own})]


def started(command: list[str], hosts: TwoHosts, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=hosts.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


@pytest.mark.parametrize("form", [torchrun, deepspeed, slurm, by_ssh], ids=lambda form: form.__name__)
def test_each_form_trains_one_run_on_two_machines(
    form: Any, words_for_tiny: tuple[str, ...], hosts: TwoHosts, environment: dict[str, str]
) -> None:
    run = hosts.folder / form.__name__
    launched = form(hosts, words_of(form.__name__, words_for_tiny, hosts), environment)
    told = [one.communicate(timeout=300)[0] for one in launched]
    assert [one.returncode for one in launched] == [0] * len(launched), told
    first = hosts.folder / "first-losses.json"
    found = losses(run)
    assert len(found) == NUM_STEPS
    if not first.exists():
        first.write_text(json.dumps(found))
    assert [list(one) for one in found] == json.loads(first.read_text())


def processes_of(hosts: TwoHosts) -> list[int]:
    found: list[int] = []
    for name in hosts.names:
        told = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
        found += map(int, told.stdout.split())
    return found


def command_lines() -> str:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended meanwhile
    return "\n".join(lines)


@pytest.mark.parametrize("how", ["USR1", "TERM", "KILL"])
def test_what_stops_the_launcher_stops_both_machines_saved(
    how: str, words_for_tiny: tuple[str, ...], hosts: TwoHosts, environment: dict[str, str]
) -> None:
    """Killed, it passes nothing on: its connections end, and the machines stop by themselves."""
    words = [word for word in words_of(how, words_for_tiny, hosts) if not word.startswith("train.max_steps=")]
    more = ["train.max_steps=4000", "data.sources.mine.repeats=100"]
    (launcher,) = by_ssh(hosts, [*words, *more], {**environment, "GRACE": "60"})
    run = hosts.folder / how
    deadline = time.monotonic() + 200
    while num_logged(run) < 3:
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.1)
    assert len(processes_of(hosts)) >= 2
    assert SECRET not in command_lines()
    assert any(
        f"HF_TOKEN={SECRET}".encode() in Path(f"/proc/{pid}/environ").read_bytes() for pid in processes_of(hosts)
    )
    began = time.monotonic()
    os.kill(launcher.pid, getattr(signal, f"SIG{how}"))
    if how == "KILL":
        launcher.wait(timeout=10)
    else:
        told = launcher.communicate(timeout=120)[0]
        assert launcher.returncode == 75, told
        assert "stands: run the same command again to go on from there" in told and "Traceback" not in told, told
        assert f"HOSTFILE={hosts.folder / 'hostfile'}" in told, told
    while processes_of(hosts):
        assert time.monotonic() - began < 60
        time.sleep(0.2)
    saved = (run / "checkpoints" / "last").read_text().strip()
    assert saved == f"step-{num_logged(run):06d}"
    assert SECRET not in "".join(path.read_text(errors="replace") for path in run.rglob("*.json*"))


def test_a_machine_that_is_not_reached_ends_all_in_one_line(hosts: TwoHosts, environment: dict[str, str]) -> None:
    hostfile = hosts.folder / "wrong-hosts"
    hostfile.write_text(f"{hosts.names[0]} slots=1\nnowhere slots=1\n")
    command = ["bash", str(SCRIPTS / "launch_multinode.sh"), "exp=mix_doc", "scale=demo"]
    told = {**environment, "HOSTFILE": str(hostfile), "MASTER_ADDR": hosts.address(0), "MASTER_PORT": "29537"}
    launcher = started(command, hosts, told)
    text = launcher.communicate(timeout=120)[0]
    assert launcher.returncode == 2, text
    assert text.count("launch_multinode.sh: nowhere cannot be reached by ssh") == 1 and "Traceback" not in text, text
    assert not processes_of(hosts)
