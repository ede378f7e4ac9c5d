"""An attempt in a forked process: limited in time and memory, watched, its output kept."""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.fuzz.case import Attempt, Outcome
from tests.fuzz.watch import watch

GIBIBYTE = 1 << 30
SECONDS = 10.0
MEMORY = 2 * GIBIBYTE
# Beyond this an allocation fails, so that a greedy case ends and the machine does not.
HARD_MEMORY = 8 * GIBIBYTE
BEFORE = "resident before"
LARGEST_FILE = 2 * GIBIBYTE
OWN_FOLDERS = {"LLAVA_MOE_CACHE": "cache", "TMPDIR": "temporary", "HOME": "home", "MPLCONFIGDIR": "temporary"}


def run_attempt(attempt: Attempt, folder: Path, seconds: float = SECONDS) -> Outcome:
    """Fork, run the attempt in ``folder``, and wait: at most ``seconds``, then it is killed."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as events:
        began = time.monotonic()
        process = os.fork()
        if process == 0:
            _be_the_attempt(attempt, folder, output, errors, events)
        timed_out = not _ends_within(process, seconds)
        if timed_out:
            # Aborted, it tells where it stood.
            os.kill(process, signal.SIGABRT)
            _ends_within(process, 2)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)
        _, status, usage = os.wait4(process, 0)
        told = [json.loads(line) for line in _read(events).splitlines()]
        before = sum(size for kind, size in told if kind == BEFORE)
        return Outcome(
            status=os.waitstatus_to_exitcode(status),
            seconds=time.monotonic() - began,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_bytes=max(0, usage.ru_maxrss * 1024 - before),
            timed_out=timed_out,
            output=_read(output),
            errors=_read(errors),
            events=tuple((kind, what) for kind, what in told if kind != BEFORE),
        )


def _ends_within(process: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(process)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _be_the_attempt(attempt: Attempt, folder: Path, output: IO[bytes], errors: IO[bytes], events: IO[bytes]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        # As Python opens them; what the parent's were made into stays behind.
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for name, inside in OWN_FOLDERS.items():
            (folder / inside).mkdir(exist_ok=True)
            os.environ[name] = str(folder / inside)
        tempfile.tempdir = None
        os.chdir(folder)
        sys.dont_write_bytecode = True
        faulthandler.enable(errors.fileno())
        _limit()
        # Not all that is resident in the parent is in the child: pages of files come when they are asked for.
        os.write(events.fileno(), json.dumps([BEFORE, _resident_bytes()]).encode() + b"\n")
        own = [folder / inside for inside in ("cache", "temporary")]
        watch(events.fileno(), [*own, *attempt.may_write], attempt.may_not_read)
        status = attempt.run()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status & 255)


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + HARD_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _read(file: IO[bytes], most: int = 1 << 20) -> str:
    # By position: the child wrote through the same open file.
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), min(size, most), max(0, size - most)).decode(errors="replace")
