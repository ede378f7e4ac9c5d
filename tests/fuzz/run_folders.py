"""Runs' folders: any of a run's files changed, then the run is resumed, asked, compared, listed, begun from."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

from tests.fuzz.case import Attempt
from tests.fuzz.commands import TINY, command, run_in, write_own_data
from tests.fuzz.texts import hostile_text
from tests.fuzz.tree import change_files, copy_tree

TRAIN = (*TINY, "train.max_steps=3", "out=run")
# Each reads a run in another way; a Python call costs a fifth of a command.
USES: dict[str, tuple[str, ...]] = {
    "resume": ("train", *TRAIN),
    "start from": ("train", *TINY, "train.max_steps=1", "init_from=run", "out=other"),
    "chat": ("chat", "run=run", "prompt=What is it?", "image=pictures/0.png", "max_new_tokens=2", "num_threads=1"),
    "list": ("ls", "run"),
    "compare": ("eval", "runs=[run,second]", "out=comparison"),
    "leaks": ("eval", "run=run", "leaks=true"),
}


class RunFolders:
    """A run that has ended and one that stopped on its way, both scored."""

    name = "run_folders"

    def prepare(self, folder: Path) -> None:
        self._good = folder
        write_own_data(folder)
        run_in(folder, "train", *TRAIN, "train.save_every=1")
        run_in(folder, "eval", "run=run", "limit=1", "num_threads=1")
        shutil.copytree(folder / "run", folder / "second", symlinks=True)
        shutil.rmtree(folder / "cache", ignore_errors=True)

    def draw(self, random: Random, folder: Path) -> Attempt:
        for name in ("run", "pictures"):
            copy_tree(self._good / name, folder / name)
        shutil.copyfile(self._good / "train.json", folder / "train.json")
        outside = folder / "outside.json"
        outside.write_text('{"nobody": "gave this"}')
        run = folder / "run"
        if random.random() < 0.3:
            self._unfinish(run)
        if random.random() < 0.08:
            return self._renamed(random, folder)
        told = change_files(random, self._choice(random, run), outside)
        if random.random() < 0.5:
            return Attempt(_restore, f"restore('run') after {told}", may_write=(run,))
        use = random.choice(list(USES))
        if use == "compare":
            copy_tree(self._good / "second", folder / "second")
        about = f"{' '.join(USES[use])} after {told}"
        may_write = [folder / name for name in ("run", "second", "other", "comparison", "runs")]
        return Attempt(command(USES[use]), about, tuple(may_write))

    @staticmethod
    def _choice(random: Random, run: Path) -> list[Path]:
        """The run's files; mostly the small ones, for they are read by our own code."""
        files = sorted(path for path in run.rglob("*") if path.is_file())
        small = [path for path in files if path.suffix in (".json", ".jsonl", ".yaml", "") and path.stat().st_size]
        return small if random.random() < 0.7 else files

    @staticmethod
    def _unfinish(run: Path) -> None:
        newest = sorted((run / "checkpoints").glob("step-*"))[-1]
        shutil.rmtree(newest)
        before = sorted((run / "checkpoints").glob("step-*"))[-1].name
        (run / "checkpoints" / "last").write_text(before + "\n")

    def _renamed(self, random: Random, folder: Path) -> Attempt:
        """The scored run under another name, compared with itself."""
        text = hostile_text(random, 60).replace("/", "|").replace("\0", "")
        name = text.encode("utf-8", "ignore").decode().strip(".") or "run 1"
        (folder / "run").rename(folder / name)
        copy_tree(self._good / "second", folder / "second")
        quoted = [f"'{one}'" if "'" not in one else one for one in (name, "second")]
        words = ("eval", f"runs=[{','.join(quoted)}]", "out=comparison")
        return Attempt(command(words), f"{' '.join(words)!a}", (folder,))


def _restore() -> int:
    from llava_moe.assemble import restore
    from llava_moe.errors import UserError

    try:
        restore("run")
    except UserError:
        return 2
    return 0
