"""Commands in processes of their own that need not load torch again: each is forked from a process that has loaded it.

A forked command is to its test what ``python -m llava_moe`` is: it has its own process id, exit status, signals, folder
and environment. What needs a fresh interpreter (launchers, imports, the terminal) is started as one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

MODULES = (
    # The last three are loaded late, by every command that reads records or draws its charts.
    *("transformers", "matplotlib.backends.backend_svg", "pandas", "datasets", "pyarrow.dataset"),
    *("llava_moe.commands.train", "llava_moe.runs.stage", "llava_moe.commands.eval", "llava_moe.report.charts"),
)
# Two numbers come back: the process id, and at the end the exit status.
NUMBER = struct.Struct("q")
LONGEST_REQUEST = 1 << 17
# The first as the command line sets it before it loads torch; CUDA must not be touched before a fork.
WHILE_LOADING = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


class ForkedCommand:
    """A command that runs. What it prints goes to files, so that nobody has to read for it to go on."""

    def __init__(self, status: int, output: IO[bytes], errors: IO[bytes]) -> None:
        self._status, self._output, self._errors = status, output, errors
        self._ended: int | None = None
        self.pid: int = NUMBER.unpack(os.read(status, NUMBER.size))[0]

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while the command runs."""
        if self._ended is None and select.select([self._status], [], [], 0)[0]:
            self._read_end()
        return self._ended

    def wait(self, timeout: float = 240) -> int:
        """The exit status once the command has ended; a command that runs on is killed.

        Raises:
            TimeoutError: the command has not ended in time.
        """
        if self._ended is None and not select.select([self._status], [], [], timeout)[0]:
            self.send_signal(signal.SIGKILL)
            raise TimeoutError(f"not ended after {timeout} s: {self.output}{self.errors}")
        return self._read_end()

    def send_signal(self, number: int) -> None:
        """Send a signal where the command still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    @property
    def output(self) -> str:
        """What the command has printed so far."""
        return _text(self._output)

    @property
    def errors(self) -> str:
        """What the command has written to standard error so far; empty where it goes to the output."""
        return _text(self._errors)

    def _read_end(self) -> int:
        if self._ended is None:
            self._ended = NUMBER.unpack(os.read(self._status, NUMBER.size))[0]
            os.close(self._status)
        return self._ended


class CommandServer:
    """A process that has loaded ``modules``, under more ``environment`` if given, and forks a command for each request.

    With a ``prefix`` it is started by that program, such as one that enters a namespace.

    Each server's Python has a hash seed of its own: whatever hangs on the order of a set differs between the
    commands of two servers, as between two processes.
    """

    def __init__(self, *more_modules: str, prefix: Sequence[str] = (), **environment: str) -> None:
        self.modules = (*MODULES, *more_modules)
        self.environment = environment
        self.prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(
        self,
        words: Sequence[str],
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        output: int | None = None,
        joined: bool = False,
    ) -> ForkedCommand:
        """Start ``llava-moe WORDS``.

        Args:
            words: the command and its words.
            folder: where it runs; the caller's folder unless given.
            environment: all of its environment; the caller's unless given.
            output: a file descriptor for what it prints, which the caller reads.
            joined: standard error goes where the output goes.
        """
        out, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        to = out.fileno() if output is None else output
        read, write = os.pipe()
        request = {
            "words": [*words],
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
        }
        message = json.dumps(request).encode()
        assert len(message) < LONGEST_REQUEST
        socket.send_fds(self._connection(), [message], [to, to if joined else errors.fileno(), write])
        os.close(write)
        return ForkedCommand(read, out, errors)

    def run(self, words: Sequence[str], **where: Any) -> ForkedCommand:
        """:meth:`start`, and wait for the end."""
        command = self.start(words, **where)
        command.wait(timeout=420)
        return command

    def close(self) -> None:
        """End the server; what it has forked has ended before."""
        if self._process is not None and self._channel is not None:
            self._channel.close()
            self._process.wait(timeout=60)

    def _connection(self) -> socket.socket:
        if self._channel is None:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [*self.prefix, sys.executable, "-m", __name__, str(theirs.fileno()), *self.modules]
                root = Path(__file__).parents[1]
                self._process = subprocess.Popen(
                    command,
                    cwd=root,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env={**WHILE_LOADING, **os.environ, **self.environment},
                )
        return self._channel


def _text(file: IO[bytes]) -> str:
    # By position: the command writes through the same open file.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _serve(channel: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns the request in a forked command, and None once nobody asks any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
        if not message:
            while _reap(0):
                pass
            return None
        if os.fork() == 0:
            channel.close()
            _fork_and_tell(*descriptors)
            return dict(json.loads(message))
        for descriptor in descriptors:
            os.close(descriptor)
        while _reap(os.WNOHANG):
            pass


def _reap(how: int) -> bool:
    """Whether a child that has ended was waited for."""
    try:
        return os.waitpid(-1, how)[0] != 0
    except ChildProcessError:
        return False


def _fork_and_tell(output: int, errors: int, status: int) -> None:
    """Fork the command and stay behind to tell its id and status. Returns in the command alone."""
    command = os.fork()
    if command == 0:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        for descriptor in (output, errors, status):
            os.close(descriptor)
        return
    os.close(output)
    os.close(errors)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(status, NUMBER.pack(command))
    _, ended = os.waitpid(command, 0)
    with suppress(BrokenPipeError):
        os.write(status, NUMBER.pack(os.waitstatus_to_exitcode(ended)))
    os._exit(0)


def _be_the_command(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["llava-moe", *request["words"]]
    runpy.run_module("llava_moe", run_name="__main__", alter_sys=True)


def _main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    for module in sys.argv[2:]:
        importlib.import_module(module)
    # What is loaded stays: collections in the commands need not look at it.
    gc.collect()
    gc.freeze()
    request = _serve(channel)
    if request is not None:
        _be_the_command(request)


if __name__ == "__main__":
    _main()
