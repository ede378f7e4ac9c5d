"""torch's files read without running what they hold, also by a library that asks torch to trust them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from llava_moe.errors import UserError

_FORCED, _TRUSTING = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextmanager
def tensors_only(place: object, allowed: Sequence[Any] = ()) -> Iterator[None]:
    """Within, ``torch.load`` opens tensors and plain containers, whatever its caller asks for.

    Trap: DeepSpeed loads its checkpoints with ``weights_only=False``, which runs any program that a file names. Torch
    has one switch that overrules its callers, an environment variable that it reads at each load.

    Args:
        place: what is read, for the message.
        allowed: further classes that may be made.

    Raises:
        UserError: a file holds anything else; nothing of it was run.
    """
    before = {name: os.environ.pop(name, None) for name in (_FORCED, _TRUSTING)}
    os.environ[_FORCED] = "1"
    try:
        with torch.serialization.safe_globals(list(allowed)):
            yield
    except pickle.UnpicklingError as error:
        told = " ".join(str(error).replace("\x1b[1m", "").split())
        reason = told.partition("WeightsUnpickler error: ")[2][:160] or told[:160]
        raise UserError(
            f"{place} holds more than tensors, and nothing else is unpickled here ({reason}): go on from another "
            "checkpoint, or begin again"
        ) from error
    finally:
        del os.environ[_FORCED]
        os.environ.update({name: value for name, value in before.items() if value is not None})
