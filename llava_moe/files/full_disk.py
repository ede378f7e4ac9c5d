"""Whether a disk is full, by whatever error a library tells it."""

from __future__ import annotations

from llava_moe.errors import FULL_DISK


def is_full(error: Exception) -> bool:
    """Whether an error says that a disk is full, over quota, or a file as large as it may be."""
    # safetensors and torch tell it in words alone; torch's writer also loses count when a file takes no more.
    told = ("No space left", "Disk quota exceeded", "File too large", "PytorchStreamWriter failed", "unexpected pos")
    return getattr(error, "errno", None) in FULL_DISK or any(words in str(error) for words in told)
