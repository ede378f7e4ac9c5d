"""Whether autograd's backward pass is under way: what runs then is computed again, for a call that is long over."""

from __future__ import annotations

import torch

OUTSIDE = -1


def current_backward_pass() -> int:
    """The number of the backward pass that this thread is in; :data:`OUTSIDE` outside of any."""
    return torch._C._current_graph_task_id()


def is_recomputing() -> bool:
    """Whether what runs now is computed again, by activation checkpointing."""
    return current_backward_pass() != OUTSIDE
