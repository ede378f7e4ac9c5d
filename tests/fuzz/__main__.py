"""``python -m tests.fuzz FAMILY[,FAMILY] SECONDS FOLDER [SEED]``; ``python -m tests.fuzz FAMILY:SEED:NUMBER FOLDER``.

``all`` stands for every family; each gets so many seconds.

A process that has loaded everything once and forks a child for each case. The package that is attacked is the one that
Python finds first: ``PYTHONPATH`` may name another checkout.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
import tempfile
from pathlib import Path

from tests.fuzz.adapters import Adapters
from tests.fuzz.benchmarks import Benchmarks
from tests.fuzz.campaign import Campaign, Tally, tell_findings, write_tally
from tests.fuzz.case import DEFAULT_SEED, CaseName, Family
from tests.fuzz.commands import load_everything
from tests.fuzz.images import Images
from tests.fuzz.records import Records
from tests.fuzz.run_folders import RunFolders
from tests.fuzz.words import Words

FAMILIES: dict[str, type[Family]] = {
    kind.name: kind for kind in (Records, Adapters, Words, Images, RunFolders, Benchmarks)
}
# As the command line sets them before it loads torch; and nothing is asked of a network.
WHILE_LOADING = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "COLUMNS": "100",
}


def load() -> None:
    """Load what commands load, so that no case does."""
    os.environ.update(WHILE_LOADING)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MPLCONFIGDIR"] = folder
        load_everything()
    import torch

    torch.set_num_threads(1)
    # Asked once a process, by way of a program.
    platform.processor()
    # Garbage collections in the children need not look at it.
    gc.collect()
    gc.freeze()


def tell(tally: Tally) -> None:
    """The progress line."""
    faults = ", ".join(f"{count} {kind}" for kind, count in tally.counts().items() if count) or "nothing found"
    sys.stderr.write(f"fuzz {tally.family}: {tally.num_cases} cases in {tally.seconds:.0f} s, {faults}\n")


def main(arguments: list[str]) -> int:
    """Returns 1 where something was found."""
    load()
    if ":" in arguments[0]:
        name, folder = CaseName.parse(arguments[0]), Path(arguments[1]).resolve()
        tally = Tally(name.family, name.seed)
        Campaign(FAMILIES[name.family](), name.seed, folder).run_case(name.number, tally)
        sys.stdout.write("\n".join([f"{name}", *tell_findings(tally)]) + "\n")
        return int(bool(tally.findings))
    names = list(FAMILIES) if arguments[0] == "all" else arguments[0].split(",")
    seconds, folder = float(arguments[1]), Path(arguments[2]).resolve()
    seed = int(arguments[3]) if len(arguments) > 3 else DEFAULT_SEED
    found = False
    for family in names:
        tally = Campaign(FAMILIES[family](), seed, folder / family).run(seconds, tell)
        write_tally(tally, folder)
        found = found or bool(tally.findings)
    sys.stdout.write((folder / "table.txt").read_text())
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
