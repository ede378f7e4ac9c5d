"""Repeats by hash: arrays of 64 bits a record or image, never an object each.

Shape letters: n records, m images of records.
"""

from __future__ import annotations

import numpy as np


def mix(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Join two hashes into one, order counting: the finaliser of splitmix64 over ``hashes * odd + others``.

    Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        x = hashes * np.uint64(0x9E3779B97F4A7C15) + others
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    joined: np.ndarray = x ^ (x >> np.uint64(31))
    return joined


def join_images(start_n: np.ndarray, rows_m: np.ndarray, places_m: np.ndarray, contents_m: np.ndarray) -> np.ndarray:
    """uint64 [n]: ``start`` with each record's images mixed in, in the order of their places."""
    joined_n = start_n.copy()
    for place in range(int(places_m.max(initial=-1)) + 1):
        at = places_m == place
        joined_n[rows_m[at]] = mix(joined_n[rows_m[at]], contents_m[at])
    return joined_n


def copies(hashes: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose hash an earlier one of ``rows`` has, ascending, and beside each the first row with it."""
    order = np.argsort(hashes[rows], kind="stable")
    sorted_rows, sorted_hashes = rows[order], hashes[rows][order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = sorted_hashes[1:] != sorted_hashes[:-1]
    group = np.cumsum(is_first) - 1
    firsts = sorted_rows[is_first][group]
    ascending = np.argsort(sorted_rows[~is_first], kind="stable")
    return sorted_rows[~is_first][ascending], firsts[~is_first][ascending]


def same_but_other(same: np.ndarray, other: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows that share ``same`` with a row that has another ``other``, ascending."""
    if not len(rows):
        return rows
    order = np.argsort(same[rows], kind="stable")
    sorted_same, sorted_other = same[rows][order], other[rows][order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = sorted_same[1:] != sorted_same[:-1]
    starts = np.flatnonzero(is_first)
    differs = np.minimum.reduceat(sorted_other, starts) != np.maximum.reduceat(sorted_other, starts)
    return np.sort(rows[order][differs[np.cumsum(is_first) - 1]])
