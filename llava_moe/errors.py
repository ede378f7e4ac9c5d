"""What can go wrong and whose it is to fix: the exit status of a process is decided here."""

from __future__ import annotations

import errno

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over quota, a file over its largest size."""


class UserError(Exception):
    """Something the user can fix. Its text is one line: what is wrong, where, and what to do. Exit status 2."""


class StoppedBySignalError(Exception):
    """Training stopped on SIGTERM or SIGUSR1 with a checkpoint saved. Exit status 75: run the same command again."""
