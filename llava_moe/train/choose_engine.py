"""Which engine several processes take when nobody says it."""

from __future__ import annotations

SHARE_FOR_STATE = 0.5
"""Of what is free beside the model; the rest is for activations, whose size the data decides."""


def state_bytes(num_trained: int, num_bytes_of_a_number: int) -> int:
    """Bytes that ``parallel=ddp`` takes on each device beside the model.

    For a number that trains: a gradient in fp32, once more flattened for its sum, AdamW's two moments, and a master
    copy in fp32 with the gradient of the live one where the model is in half precision.

    Args:
        num_bytes_of_a_number: of the weights: 4 in fp32, 2 in bf16.
    """
    of_half_precision = 4 + num_bytes_of_a_number if num_bytes_of_a_number < 4 else 0
    return num_trained * (4 + 4 + 8 + of_half_precision)


def fits_on_each(num_bytes: int, free: int) -> bool:
    """Whether state of so many bytes leaves room for activations in what is free beside the model."""
    return num_bytes <= SHARE_FOR_STATE * free
