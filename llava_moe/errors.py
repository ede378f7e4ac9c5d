"""What can go wrong and whose it is to fix: the exit status of a process is decided here."""

from __future__ import annotations

import errno

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over quota, a file over its largest size."""
GONE_DISK = (*FULL_DISK, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)
"""Those, and a disk that fails, turned read-only or went away."""


class UserError(Exception):
    """Something the user can fix. Its text is one line: what is wrong, where, and what to do. Exit status 2."""


class LostRankError(UserError):
    """Another process is gone: nothing can be done together any more. It has said why, unless it was killed."""


STOPPED = 75
"""Exit status of what SIGTERM or SIGUSR1 stopped: the same command goes on."""
INTERRUPTED = 130
"""Exit status of what Ctrl-C stopped."""


class StoppedBySignalError(Exception):
    """A signal stopped the work, and what the text names was saved. ``status`` is the process's exit status."""

    def __init__(self, text: str, status: int = STOPPED) -> None:
        super().__init__(text)
        self.status = status


class ReportedByRankZeroError(Exception):
    """Another process has told the user what is wrong; this one ends with the same exit status, silently."""
