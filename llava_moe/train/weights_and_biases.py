"""Weights & Biases beside a run (``log.wandb``): judged before anything is built, and never in the way of training."""

from __future__ import annotations

import importlib.util
import inspect
import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llava_moe.errors import UserError
from llava_moe.train.background_calls import named
from llava_moe.train.background_curves import BackgroundCurves, Tell

Mode = Literal["off", "offline", "online"]

START_SECONDS = 60
# How long the end of a run waits for what is not uploaded yet.
FINISH_SECONDS = 60


def settle_mode(asked: str | bool) -> tuple[Mode, str | None]:
    """What ``log.wandb`` comes to on this machine, and a line where ``auto`` comes to less than online.

    Args:
        asked: the setting; YAML reads an unquoted ``off`` as False.

    Raises:
        UserError: wandb is not installed or too old, or ``online`` is asked for and no server takes the key.
    """
    if asked in ("off", False):
        return "off", None
    _refuse_without_package(str(asked))
    if asked == "offline":
        return "offline", None
    if asked == "auto" and os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return "offline", f"log.wandb=auto: offline, as WANDB_MODE={os.environ['WANDB_MODE']} says"
    trouble = _trouble_online()
    if trouble is None:
        return "online", None
    if asked == "auto":
        return "offline", f"log.wandb=auto: {trouble}; curves are kept offline, wandb sync uploads them later"
    raise UserError(
        f"log.wandb=online: {trouble}; run wandb login or set WANDB_API_KEY, or take log.wandb=offline, which wandb "
        "sync uploads later (log.wandb=auto chooses)"
    )


def _refuse_without_package(asked: str) -> None:
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"log.wandb={asked} needs wandb: pip install 'llava-moe[train]', or take log.wandb=off")
    import wandb

    if "prompt" not in inspect.signature(wandb.login).parameters:
        raise UserError(f"log.wandb={asked}: wandb {wandb.__version__} is too old: pip install --upgrade wandb")


def _trouble_online() -> str | None:
    """Why curves cannot go to the server now; None where they can. Asks nobody at the terminal."""
    import wandb

    # Without the mode, a WANDB_MODE in the environment would answer for the server.
    wandb.setup(wandb.Settings(mode="online", silent=True))
    try:
        return None if wandb.login(prompt=False, verify=True) else "no key of Weights & Biases is on this machine"
    except (wandb.Error, OSError) as error:
        return " ".join(str(error).split()).rstrip(".")[:200]


class WeightsAndBiases(BackgroundCurves):
    """Scalars for Weights & Biases.

    Args:
        folder: the run's folder; a run that is resumed goes on under the id that is kept there.
        name: shown for the run.
        mode: as :func:`settle_mode` found it.
        project: where it is shown.
        tell: prints a line.
    """

    def __init__(self, folder: Path, name: str, mode: Literal["online", "offline"], project: str, tell: Tell) -> None:
        super().__init__("wandb", tell)
        self._viewer = self._begin(folder, name, mode, project)

    def close(self) -> None:
        """Upload what was sent, within ``FINISH_SECONDS``; a line says where that failed and how to do it later."""
        import wandb

        self._notice()
        if self._viewer is not None and (trouble := self.calls.within(self._viewer.finish, FINISH_SECONDS + 10)[1]):
            place = Path(self._viewer.dir).parent
            self.tell(f"wandb: not everything was uploaded ({named(trouble)}); later: wandb sync {place}")
        self._viewer = None
        # What failed was told: torn down here, it has nothing to say when the process ends.
        self.calls.within(wandb.teardown, FINISH_SECONDS + 10)
        self.calls.end()

    def _begin(self, folder: Path, name: str, mode: Literal["online", "offline"], project: str) -> Any:
        import wandb

        settings = wandb.Settings(
            # Its lines and its copy of ours would run through the progress bar.
            silent=True,
            console="off",
            init_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        begin = partial(wandb.init, dir=str(folder), name=name, project=project, resume="allow", settings=settings)
        modes: tuple[Literal["online", "offline"], ...] = (mode,) if mode == "offline" else (mode, "offline")
        for tried in modes:
            run, trouble = self.calls.within(
                lambda: begin(mode=tried, id=_run_id(folder)),  # noqa: B023
                START_SECONDS + 10,
            )
            if trouble is None:
                self.tell(f"  wandb: {run.url}" if tried == "online" else f"  wandb, offline: {Path(run.dir).parent}")
                return run
            self.tell(f"wandb: {tried} does not begin ({named(trouble)})")
        self.tell("wandb: no curves there; log.jsonl has every number")
        return None

    @staticmethod
    def _add(viewer: Any, numbers: Mapping[str, float], step: int) -> None:
        viewer.log(numbers, step=step)


def _run_id(folder: Path) -> str:
    """The id that the run has had since its first start."""
    path = folder / "wandb" / "run_id"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(4), encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()
