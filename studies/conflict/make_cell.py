"""One cell: stage 1 of its seed where that is not there, the training, its scores, its items; commands in processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_moe.errors import INTERRUPTED, STOPPED, StoppedBySignalError, UserError
from llava_moe.files.our_files import read_object, read_objects, read_text
from studies.conflict.cells import Cell, stage1_words
from studies.conflict.study import Study

MEASURED = {"base": str, "parameters": int, "records": [dict], "questions": [dict]}
_LOG = {"step": int, "domains": {str: {"samples": int}}}
_REMEDY = "delete the cell's folder and run again"
_ROOT = Path(__file__).resolve().parents[2]


class CellMaker:
    """Makes the cells of a study in a folder of runs; several threads may ask it at once.

    Args:
        base: the fingerprint of the base that the cells before stand on; None where there are none.
    """

    def __init__(self, study: Study, work: Path, base: str | None) -> None:
        self.study, self.work, self.base = study, work, base
        self._seeds: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        self._ready: set[int] = set()
        self._is_stopped = False

    def make(self, cell: Cell) -> tuple[dict[str, Any], dict[str, Any]]:
        """What ``measured.json`` holds of the cell, and facts for its line.

        Raises:
            UserError: a command failed, the base is another, or the run saw other samples than planned.
            StoppedBySignalError: a signal stopped a command; the same command goes on.
        """
        began = time.monotonic()
        start = self._stage1(cell.seed)
        run = self.work / cell.name
        self._command(cell.name, "train", *cell.words, f"init_from={start}", f"out={run}")
        samples, num_steps = self.samples_of(cell, run)
        measures = self.study.measures
        asked = (f"benchmarks=[{measures.benchmark}]", f"limit={measures.limit}", "num_threads=1")
        self._command(cell.name, "eval", f"run={run}", *asked)
        domains = ",".join(self.study.domains)
        words = ("--domains", domains, "--split", measures.split, "--benchmark", measures.benchmark)
        self._start(cell.name, [sys.executable, "-m", "studies.conflict.measure", str(run), *words])
        measured = read_object(run / "measured.json", _REMEDY, MEASURED)
        environment = read_object(run / "environment.json", _REMEDY)
        facts = {"samples": samples, "steps": num_steps, "commit": environment["commit"]}
        if "embedded_base" in environment:
            facts["embedded_base"] = environment["embedded_base"]
        return measured, facts | {"seconds": round(time.monotonic() - began, 1)}

    def stop(self) -> None:
        """Ask what runs to save and end; nothing more is begun."""
        with self._guard:
            self._is_stopped = True
            for process in self._running:
                process.terminate()

    def _stage1(self, seed: int) -> Path:
        """The run that the cells of a seed start from, trained by the first that asks."""
        run = self.work / f"seed{seed}-stage1"
        with self._guard:
            lock = self._seeds[seed]
        with lock:
            if seed not in self._ready:
                self._command(run.name, "train", *stage1_words(self.study, seed), f"out={run}")
                self.check_base(run)
                self._ready.add(seed)
        return run

    def check_base(self, run: Path) -> None:
        """Refuse a run on another base than the cells before; raises UserError."""
        found = read_object(run / "environment.json", _REMEDY, {"base_model": str})["base_model"]
        with self._guard:
            self.base = self.base or found
        if found != self.base:
            raise UserError(
                f"{run} stands on the base {found}, the cells before on {self.base}: give cells of another base other "
                "folders with --results and --work"
            )

    def samples_of(self, cell: Cell, run: Path) -> tuple[dict[str, int], int]:
        """Samples of each domain that the run's log counts, and its steps.

        Raises:
            UserError: a domain has other samples than planned: a cell beside it would not be its equal.
        """
        log = read_objects(run / "log.jsonl", _REMEDY, _LOG)
        seen: Counter[str] = Counter()
        for step in log:
            seen.update({name: of_domain["samples"] for name, of_domain in step["domains"].items()})
        planned = {domain: self.study.samples(domain) for domain in cell.trained_on}
        if dict(seen) != planned:
            raise UserError(
                f"{cell.name} saw {_counted(seen)} samples, planned were {_counted(planned)}: a source holds fewer, a "
                "record could not be read, log.every is not 1, or the data lacks follows_domains: true"
            )
        return planned, len(log)

    def _command(self, name: str, *words: str) -> None:
        self._start(name, [sys.executable, "-m", "llava_moe", *words])

    def _start(self, name: str, command: list[str]) -> None:
        """Run a command to its end, its output added to ``<work>/<name>.log``."""
        log = self.work / f"{name}.log"
        # One thread each: several cells share the machine.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
        with log.open("ab") as output:
            with self._guard:
                if self._is_stopped:
                    raise StoppedBySignalError("stopped; the same command goes on")
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
                self._running.add(process)
            try:
                status = process.wait()
            finally:
                with self._guard:
                    self._running.discard(process)
        if status in (STOPPED, INTERRUPTED) or (status < 0 and self._is_stopped):
            raise StoppedBySignalError(f"{name} stopped; the same command goes on", max(status, STOPPED))
        if status:
            last = read_text(log, "look at it").rstrip().rpartition("\n")[2]
            raise UserError(f"{name} ended with status {status}: {last} ({log} has the whole)")


def _python_path() -> str:
    """The commands need this folder's package and this study, from whatever folder the study was started."""
    given = os.environ.get("PYTHONPATH")
    return str(_ROOT) if not given else f"{_ROOT}{os.pathsep}{given}"


def _counted(samples: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {num}" for name, num in samples.items()) or "no"
