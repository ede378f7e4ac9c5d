"""The launch scripts say in a line what is missing, and start nothing then. Programs are stood in for by small ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# All that the scripts themselves need.
PLAIN = ("bash", "env", "grep", "head", "sleep", "cat", "mktemp", "mkfifo", "rm", "tee")
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


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    scripts = [*SCRIPTS.glob("*.sh"), SCRIPTS / "slurm.sbatch"]
    assert not subprocess.run(["shellcheck", *scripts], capture_output=True, text=True).stdout


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


def test_several_machines_need_a_file_of_hosts_and_ssh(machine: Machine, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert "say HOSTFILE=FILE" in machine.refuses("launch_multinode.sh")
    assert "is no file that can be read" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    assert "is no file that can be read" in machine.refuses("launch_multinode.sh", HOSTFILE=str(tmp_path))
    for text in ("", "# none\n"):
        hosts.write_text(text)
        assert "names no machine" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    wrong = {"one": 1, "one slots=0": 1, "one slots=many": 1, "-o slots=1": 1, "one slots=8\n\n# two\ntwo slot=8": 4}
    for text, number in wrong.items():
        hosts.write_text(f"{text}\n")
        told = machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
        assert f"line {number}:{text.splitlines()[-1]}: write 'name slots=8'" in told
    hosts.write_text("one slots=8\none slots=8\n")
    assert "line 2: one stands there twice" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    hosts.write_text("# ours\none slots=2\ntwo slots=1\n")
    assert "no ssh here: install it" in machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts))
    machine.has("ssh", "exit 255")
    for name, value in {"MASTER_PORT": "http", "GRACE": "long", "SILENCE": "-1", "MASTER_INTERFACE": "a b"}.items():
        told = machine.refuses("launch_multinode.sh", HOSTFILE=str(hosts), **{name: value})
        assert f"{name}={value} is no " in told
    assert "does not tell the address" in machine.refuses(
        "launch_multinode.sh", HOSTFILE=str(hosts), MASTER_INTERFACE="eth0"
    )


def test_several_machines_get_words_and_environment_by_the_input_of_ssh(machine: Machine, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("me@one slots=2\ntwo slots=1")
    # What stands on a command line is seen by every user of the machine.
    machine.has("ssh", 'echo "$*" >>"$0.words"; exec env -i PATH="${0%/*}" bash -c "${!#}"')
    machine.has(
        "python", 'echo "$RANK/$LOCAL_RANK of $WORLD_SIZE/$LOCAL_WORLD_SIZE at $MASTER_ADDR: $HF_TOKEN $OWN $*"'
    )
    own = {"HOSTFILE": str(hosts), "HF_TOKEN": "hf_secret's $HOME", "OWN": "mine", "EXPORT": "OWN", "OTHER": "not"}
    ended = machine.start("launch_multinode.sh", "exp=mix_doc", "path=my data.json", **own)
    assert ended.returncode == 0, ended
    said = "at one: hf_secret's $HOME mine -m llava_moe train exp=mix_doc path=my data.json"
    expected = [f"0/0 of 3/2 {said}", f"1/1 of 3/2 {said}", f"2/0 of 3/1 {said}"]
    assert sorted(ended.stdout.splitlines()) == expected and not ended.stderr
    assert "secret" not in (machine.folder / "ssh.words").read_text()
    ended = machine.start("launch_multinode.sh", "doctor", "ranks=true", **own)
    assert ended.stdout.count("-m llava_moe doctor ranks=true\n") == 3


def test_the_status_of_several_machines_is_that_of_the_first_that_fails(machine: Machine, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=1\ntwo slots=1\n")
    machine.has("ssh", 'exec env -i PATH="${0%/*}" bash -c "${!#}"')
    machine.has(
        "python",
        'if [ "$RANK" = 1 ]; then exit "$HF_STATUS"; fi; trap "exit 75" TERM; for _ in {1..20}; do sleep 1; done',
    )
    began = time.monotonic()
    assert machine.start("launch_multinode.sh", HOSTFILE=str(hosts), HF_STATUS="2").returncode == 2
    machine.has("python", 'if [ "$RANK" = 1 ]; then exit 2; fi; trap "" TERM; for _ in {1..40}; do sleep 1; done')
    assert machine.start("launch_multinode.sh", HOSTFILE=str(hosts), GRACE="1").returncode == 2
    assert time.monotonic() - began < 30


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
