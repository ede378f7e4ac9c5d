"""What of a run's work lies on the disk, for a command that ends before its time: no promise that does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from llava_moe.errors import GONE_DISK, LostRankError, StoppedBySignalError, UserError
from llava_moe.files.checkpoints import last_checkpoint
from llava_moe.train.collectives import LOST_RANK, tells_of_a_lost_rank
from llava_moe.train.folder import FINISHED


def standing(folders: Sequence[Path]) -> str:
    """What is there of a run of these stages, and what the same command would do."""
    unfinished = [folder for folder in folders if not (folder / FINISHED).is_file()]
    if not unfinished:
        return "training is finished: the same command goes on with what comes after it"
    try:
        checkpoint = last_checkpoint(unfinished[0])
    except UserError as error:
        return str(error)
    if checkpoint is not None:
        return f"checkpoint {checkpoint} stands: run the same command again to go on from there"
    if unfinished[0] != folders[0]:
        before = folders[folders.index(unfinished[0]) - 1]
        return f"{before} is finished, {unfinished[0]} has no checkpoint yet: the same command begins it again"
    return f"there is no checkpoint yet in {unfinished[0]}: the same command begins again"


@contextmanager
def told_with_checkpoint(folder: Path, standing: Callable[[], str]) -> Iterator[None]:
    """Add to whatever ends the training in ``folder`` what ``standing`` tells then.

    Raises:
        UserError: the same with that said; or in the place of an error of the disk that the run's folder lies on, or of
            a collective whose other end is gone.
        StoppedBySignalError: the same with that said.
    """
    try:
        yield
    except StoppedBySignalError as error:
        raise StoppedBySignalError(f"{error}; {standing()}", error.status) from error
    except UserError as error:
        raise type(error)(_told(error, str(error), standing())) from error
    except RuntimeError as error:
        if not tells_of_a_lost_rank(error):
            raise
        raise LostRankError(_told(error, LOST_RANK, standing())) from error
    except OSError as error:
        is_inside = isinstance(error.filename, str | Path) and folder in Path(error.filename).parents
        if not is_inside and error.errno not in GONE_DISK:
            raise
        place = f"{folder} is gone" if not folder.is_dir() else f"cannot write {error.filename or folder}"
        raise UserError(_told(error, f"{place} ({error.strerror}): see to the disk", standing())) from error


def _told(error: Exception, text: str, standing: str) -> str:
    return "; ".join([text, *getattr(error, "__notes__", []), standing])
