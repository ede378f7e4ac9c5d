"""Processes that work ahead in order, by torch's loader: items come as asked for, a few ready, errors handed on."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from llava_moe.errors import UserError

Item = TypeVar("Item")


def prefetch_in_order(
    dataset: Dataset[Item],
    order: Iterable[int],
    num_workers: int,
    prefetch: int = 2,
    start_method: str | None = None,
    pin_memory: bool = False,
) -> Generator[Item, None, None]:
    """``dataset[i]`` for each i of ``order``, in order, made by worker processes; by this one where there are none.

    Args:
        prefetch: items that each worker keeps ready: with them memory is bounded.
        start_method: ``fork``, ``spawn``, ... for the workers; None for the platform's own.
        pin_memory: call each item's ``pin_memory()`` in a thread of the loader, while the one before is in use.

    Raises:
        UserError: as ``dataset[i]`` did, in whatever process.
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=order,
        # Trap: without one of its own the loader draws from torch's global generator, whose state is the run's.
        generator=torch.Generator(),
        num_workers=num_workers,
        collate_fn=_as_is,
        worker_init_fn=_start_worker,
        prefetch_factor=prefetch if num_workers else None,
        multiprocessing_context=start_method if num_workers else None,
        pin_memory=pin_memory,
    )
    with _while_starting_workers(num_workers), _no_errors_from_anywhere():
        items = iter(loader)
    # Of items that nobody closes, Python would wait at its end for workers that wait for more to do.
    at_exit = partial(_end_workers, items)
    atexit.register(at_exit)
    try:
        for item in items:
            if isinstance(item, UserError):
                raise item
            yield item
    finally:
        atexit.unregister(at_exit)
        _end_workers(items)


class _Guarded(Dataset[Any]):
    """A ``UserError`` crosses to this process as a value: the loader would fold a worker's traceback into its text."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _as_is(item: Any) -> Any:
    return item


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)


@contextmanager
def _while_starting_workers(num_workers: int) -> Iterator[None]:
    """What worker processes inherit: the job's signals blocked, and the tokenizer's threads off.

    A batch system signals every process of a job. The training process decides what to do and then ends its workers;
    one that died of the signal would take the run down before the checkpoint is saved. Blocking loses no signal here:
    this process gets its own as soon as the workers are started. The tokenizer's thread pool does not survive a fork.
    """
    if not num_workers:
        yield
        return
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _no_errors_from_anywhere() -> Iterator[None]:
    """Leave out the loader's handler of SIGCHLD, which raises a worker's death wherever this process happens to be.

    Halfway through an update of the weights, say. The caller is told of it when it asks for the next item.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _end_workers(items: Any) -> None:
    """Leave no worker behind, and wait for none: what it was asked for is not wanted any more."""
    workers = getattr(items, "_workers", ())
    # Trap: a thread that pins would wait for the rest of an item that a killed worker had half sent.
    is_pinned = getattr(items, "_pin_memory", False)
    for worker in () if is_pinned else workers:
        worker.kill()
    if workers:
        items._shutdown_workers()
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()
