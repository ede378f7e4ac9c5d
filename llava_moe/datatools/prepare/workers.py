"""Worker processes that make shards of chunks: started as needed, one chunk each at a time.

The main process holds the chunk that it is cutting, a worker the one that it works on, and nothing waits in between:
memory does not grow with the source.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType

from llava_moe.datatools.prepare.chunks import Chunk
from llava_moe.datatools.prepare.shard_maker import Made, Order, ShardMaker
from llava_moe.errors import UserError

# Asked to stop, the main process stops its workers: a signal that reaches the whole group is not for them.
_NOT_FOR_WORKERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class WorkerFailedError(RuntimeError):
    """A fault of ours in a worker process; the text is its traceback."""


@dataclass
class _Worker:
    process: BaseProcess
    line: Connection
    is_busy: bool = False


class Workers:
    """At most ``num_processes`` processes that make shards; see :class:`ShardMaker`."""

    def __init__(self, order: Order, num_processes: int) -> None:
        self.order = order
        self.num_processes = num_processes
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.line.close()
            # Their chunks are lost on purpose: an error or a signal ends this, or there is none left.
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()

    def give(self, chunk: Chunk) -> Iterator[Made]:
        """Hand a chunk to a worker that is free, waiting for one if need be; yield what was finished on the way.

        Raises:
            UserError: a worker was killed.
            OSError: the disk is full or cannot be written.
        """
        if not any(not worker.is_busy for worker in self._workers):
            if len(self._workers) < self.num_processes:
                self._workers.append(self._start())
            else:
                yield from self._wait()
        worker = next(worker for worker in self._workers if not worker.is_busy)
        try:
            worker.line.send(chunk)
        except OSError as error:
            raise _killed(worker) from error
        worker.is_busy = True
        yield from self._finished(connection.wait([worker.line for worker in self._workers if worker.is_busy], 0))

    def finish(self) -> Iterator[Made]:
        """Wait for all that was handed out; raises as :meth:`give` does."""
        while any(worker.is_busy for worker in self._workers):
            yield from self._wait()

    def _wait(self) -> Iterator[Made]:
        yield from self._finished(connection.wait([worker.line for worker in self._workers if worker.is_busy]))

    def _finished(self, ready: Sequence[object]) -> Iterator[Made]:
        for worker in self._workers:
            if worker.line not in ready:
                continue
            try:
                answer = worker.line.recv()
            except (EOFError, OSError) as error:
                raise _killed(worker) from error
            worker.is_busy = False
            if isinstance(answer, BaseException):
                raise answer
            assert isinstance(answer, Made)
            yield answer

    def _start(self) -> _Worker:
        # Spawned: the main process has threads, and a fork would take their locks along.
        context = get_context("spawn")
        # Trap: it starts with the first process, and then unblocks SIGINT and SIGTERM whatever was blocked before.
        resource_tracker.ensure_running()
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.order), name="prepare", daemon=True)
        with _signals_blocked():
            process.start()
        theirs.close()
        return _Worker(process, ours)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in here inherits the block and never hears these signals; for us they only wait."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _killed(worker: _Worker) -> UserError:
    worker.process.join(5)
    code = worker.process.exitcode
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit status {code}"
    return UserError(
        f"a worker process ended ({how}), which is how memory that runs out is shown: lower num_processes= and run the "
        "same command again to go on"
    )


def _work(line: Connection, order: Order) -> None:
    # One process a core: the tokenizer's own threads would only fight over them.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    maker = ShardMaker(order)
    try:
        while True:
            chunk = line.recv()
            try:
                answer: Made | BaseException = maker.make(chunk)
            except (OSError, UserError, MemoryError) as error:
                answer = error
            except Exception:
                answer = WorkerFailedError(traceback.format_exc())
            del chunk
            line.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The main process is gone.
        return
