"""Mutations of a safetensors file: its header as JSON, the header's length, names, shapes, and the numbers."""

from __future__ import annotations

import json
import struct
from random import Random
from typing import Any

from tests.fuzz.raw_bytes import mutate_bytes
from tests.fuzz.texts import hostile_number, hostile_text
from tests.fuzz.values import mutate, write

TYPES = ("F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "X9")


def mutate_tensors(random: Random, data: bytes) -> bytes:
    """Another header before the same numbers, or the same header before others."""
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = json.loads(data[8 : 8 + length]), data[8 + length :]
    kind = random.randrange(6)
    if kind == 0:
        return struct.pack("<Q", min(abs(hostile_size(random)), 2**64 - 1)) + data[8:]
    if kind == 1:
        return data[: 8 + length] + mutate_bytes(random, numbers)
    if kind == 2:
        # Not finite, or huge.
        count = min(len(numbers) // 4, random.choice((1, 1_000_000)))
        return (
            data[: 8 + length]
            + struct.pack("<f", random.choice((float("nan"), float("inf"), 3e38))) * count
            + (numbers[count * 4 :])
        )
    if kind == 3:
        _change_entry(random, header)
        text = write(header)
    else:
        text = write(mutate(random, header))
    encoded = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded + numbers


def hostile_size(random: Random) -> int:
    """A number that may stand for a length, of any sign."""
    number = hostile_number(random)
    return 0 if number != number else int(max(-(2**70), min(2**70, number)))


def _change_entry(random: Random, header: dict[str, dict[str, Any]]) -> None:
    name = random.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    kind = random.randrange(6)
    if kind == 0:
        entry["dtype"] = random.choice(TYPES)
    elif kind == 1:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 2:
        entry["shape"] = [hostile_size(random) for _ in range(random.randint(0, 9))]
    elif kind == 3:
        header[hostile_text(random, 300)] = header.pop(name)
    elif kind == 4:
        header[random.choice(list(header))] = entry
    else:
        del header[name]
