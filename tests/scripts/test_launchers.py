"""The launch scripts say in a line what is missing, and start nothing then. Programs are stood in for by small ones."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# All that the scripts themselves need.
PLAIN = ("bash", "env", "grep", "head", "sleep", "cat")
SAYS_ITS_RANK = 'echo "rank $RANK of $WORLD_SIZE: $*"; exit 0'


class Machine:
    """A machine that has these programs and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in PLAIN:
            found = next(Path(place, name) for place in ("/bin", "/usr/bin") if Path(place, name).exists())
            (folder / name).symlink_to(found)

    def has(self, program: str, does: str) -> Machine:
        path = self.folder / program
        path.write_text(f"#!/bin/bash\n{does}\n")
        path.chmod(0o755)
        return self

    def start(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["/bin/bash", str(SCRIPTS / script), *words]
        only = {"PATH": str(self.folder), "HOME": os.environ.get("HOME", "/"), **environment}
        return subprocess.run(command, env=only, capture_output=True, text=True, timeout=60, cwd=self.folder)

    def refuses(self, script: str, *words: str, **environment: str) -> str:
        ended = self.start(script, *words, **environment)
        assert ended.returncode == 2, ended
        assert ended.stdout == "" and ended.stderr.count("\n") == 1, ended
        assert ended.stderr.startswith(f"{script}: ")
        return ended.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "bin").mkdir()
    return Machine(tmp_path / "bin").has("python", SAYS_ITS_RANK)


def test_without_a_gpu_nothing_is_started_and_a_line_says_so(machine: Machine) -> None:
    assert "no GPU was found: say how many with GPUS=4" in machine.refuses("launch.sh", "exp=mix_doc")
    machine.has("nvidia-smi", "exit 0")
    assert "lists no GPU" in machine.refuses("launch.sh")
    machine.has("nvidia-smi", 'echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18')
    assert "nvidia-smi fails (Failed to initialize NVML" in machine.refuses("launch.sh")


@pytest.mark.parametrize("number", ["", "0", "-1", "two", "1.5", "0x2", "1 2", "99999", "$(touch x)"])
def test_a_number_of_gpus_that_is_none_is_refused(number: str, machine: Machine) -> None:
    assert f"GPUS={number} is no number of GPUs" in machine.refuses("launch.sh", GPUS=number)
    assert not (machine.folder / "x").exists()


def test_a_port_that_is_none_and_no_python_are_told(machine: Machine) -> None:
    assert "MASTER_PORT=http is no port" in machine.refuses("launch.sh", GPUS="2", MASTER_PORT="http")
    (machine.folder / "python").unlink()
    assert "no python here" in machine.refuses("launch.sh", GPUS="2")


def test_a_process_is_started_for_each_gpu_with_the_words_as_they_are(machine: Machine) -> None:
    machine.has("nvidia-smi", 'echo "GPU 0: NVIDIA H100 (UUID: a)"; echo "GPU 1: NVIDIA H100 (UUID: b)"')
    ended = machine.start("launch.sh", "exp=mix_doc", "path=my data.json")
    assert ended.returncode == 0
    words = "-m llava_moe train exp=mix_doc path=my data.json"
    assert sorted(ended.stdout.splitlines()) == [f"rank 0 of 2: {words}", f"rank 1 of 2: {words}"]


def test_what_stops_a_rank_is_the_status_of_the_launcher(machine: Machine) -> None:
    machine.has("python", 'exit "$STATUS"')
    for status in (1, 2, 75):
        assert machine.start("launch.sh", GPUS="1", STATUS=str(status)).returncode == status


def test_another_command_of_several_processes_may_be_the_first_word(machine: Machine) -> None:
    ended = machine.start("launch.sh", "doctor", "ranks=true", GPUS="1")
    assert ended.stdout == "rank 0 of 1: -m llava_moe doctor ranks=true\n"


def test_processes_that_outlive_a_failed_one_are_killed_after_a_grace(machine: Machine) -> None:
    machine.has("python", 'if [ "$RANK" = 0 ]; then exit 2; fi; trap "" TERM INT; exec sleep 50')
    began = time.monotonic()
    ended = machine.start("launch.sh", GPUS="2", GRACE="2")
    assert ended.returncode == 2 and time.monotonic() - began < 30
    assert "1 of 2 processes still run 2 s after one has failed: they are killed" in ended.stderr
    assert "GRACE=long is no number of seconds" in machine.refuses("launch.sh", GPUS="2", GRACE="long")


def test_several_machines_need_a_file_of_hosts_and_deepspeed(machine: Machine, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert "say HOSTFILE=FILE" in machine.refuses("launch_multinode.sh")
    assert "is no file that can be read" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    assert "is no file that can be read" in machine.refuses("launch_multinode.sh", HOSTFILE=str(tmp_path))
    for text in ("", "# none\n", "one\n", "one slots=0\n", "one slots=many\n"):
        hosts.write_text(text)
        assert "names no machine" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    hosts.write_text("one slots=8\n\n# two\ntwo slot=8\n")
    assert "line 4:two slot=8: write 'name slots=8'" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    hosts.write_text("# ours\none slots=8\ntwo slots=8\n")
    assert "pip install 'llava-moe[train]'" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    machine.has("deepspeed", 'echo "$*"')
    started = machine.start("launch_multinode.sh", "exp=mix_doc", HOSTFILE=str(hosts))
    assert started.stdout == f"--no_local_rank --hostfile {hosts} --module llava_moe train exp=mix_doc\n"
    started = machine.start("launch_multinode.sh", "doctor", "ranks=true", HOSTFILE=str(hosts))
    assert started.stdout.endswith("--module llava_moe doctor ranks=true\n")


def test_slurms_script_is_for_sbatch(machine: Machine) -> None:
    assert "SLURM_JOB_ID is not set: start this with sbatch" in machine.refuses("slurm.sbatch")
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1"}
    for name in job:
        assert f"{name} is not set" in machine.refuses("slurm.sbatch", **{**job, name: ""})
    assert "no scontrol here" in machine.refuses("slurm.sbatch", **job)
    machine.has("scontrol", "exit 1").has("srun", 'echo "$MASTER_ADDR"; exit "$STATUS"')
    assert "names no machine" in machine.refuses("slurm.sbatch", **job)
    machine.has("scontrol", '[ "$1" = show ] && echo a1 || echo "$*"')
    assert machine.start("slurm.sbatch", **job, STATUS="0").stdout == "a1\n"
    stopped = machine.start("slurm.sbatch", **job, STATUS="75")
    assert (stopped.returncode, stopped.stdout) == (75, "a1\nrequeue 7\n")
