"""Mutations of bytes, whatever they mean."""

from __future__ import annotations

import gzip
from random import Random

BAD_TEXT = (
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xfe\xff",
    b"\x1b[2J",
    b"\n",
    b"\r",
    b"{",
    b"]",
)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """One to three changes."""
    for _ in range(random.choice((1, 1, 2, 3))):
        data = random.choice(_CHANGES)(random, data)
    return data


def _place(random: Random, data: bytes) -> int:
    # Headers stand in front.
    return min(random.randrange(len(data) + 1), random.randrange(len(data) + 1))


def _flip(random: Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\x00")
    for _ in range(random.choice((1, 1, 4, 32))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _overwrite(random: Random, data: bytes) -> bytes:
    place, new = _place(random, data), random.randbytes(random.choice((1, 4, 64)))
    return data[:place] + new + data[place + len(new) :]


def _insert(random: Random, data: bytes) -> bytes:
    place = _place(random, data)
    return data[:place] + random.choice(BAD_TEXT) * random.choice((1, 1, 100)) + data[place:]


def _cut(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def _remove(random: Random, data: bytes) -> bytes:
    place = _place(random, data)
    return data[:place] + data[place + random.choice((1, 2, 16, 200)) :]


def _repeat(random: Random, data: bytes) -> bytes:
    place = _place(random, data)
    piece = data[place : place + random.choice((1, 8, 100))]
    return data[:place] + piece * random.choice((2, 10, 20_000)) + data[place:]


def _zeros(random: Random, data: bytes) -> bytes:
    place = random.randint(0, len(data))
    return data[:place] + bytes(len(data) - place)


def _other_coding(random: Random, data: bytes) -> bytes:
    way = random.randrange(4)
    if way == 0:
        return gzip.compress(data)
    if way == 1:
        return b"\xef\xbb\xbf" + data
    return data.decode("latin-1").encode("utf-16" if way == 2 else "utf-32")


_CHANGES = (_flip, _flip, _overwrite, _overwrite, _insert, _insert, _cut, _remove, _repeat, _zeros, _other_coding)
