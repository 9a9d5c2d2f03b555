"""Which sample is trained in which step, and by whom: a pure function of the seed and the step.

The order of all samples is fixed by the seed alone. Each pass over the data is another
permutation, computed for one position at a time, so nothing needs to be held or replayed.
A step is cut into microbatches; how many workers live decides only who computes which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_ROUNDS = 6


def step_samples(seed: int, step: int, *, dataset_size: int, batch_size: int) -> list[int]:
    """Indices of the `batch_size` samples of `step` (counted from 1), in order."""
    first = (step - 1) * batch_size
    return [
        _permuted(position % dataset_size, dataset_size, key=_key(seed, position // dataset_size))
        for position in range(first, first + batch_size)
    ]


def split_microbatches(samples: Sequence[int], rows: int) -> list[list[int]]:
    """Consecutive groups of `rows` samples."""
    return [list(samples[start : start + rows]) for start in range(0, len(samples), rows)]


def microbatches_of(rank: int, world_size: int, count: int) -> range:
    """Which of a step's `count` microbatches a rank computes: all of them exactly once over the ranks."""
    return range(rank, count, world_size)


def draw_seed(seed: int, step: int, microbatch: int) -> int:
    """Seed of every random draw (dropout) made while computing one microbatch."""
    return _digest(f"draw/{seed}/{step}/{microbatch}".encode()) >> 1


def _key(seed: int, epoch: int) -> bytes:
    return hashlib.blake2b(f"order/{seed}/{epoch}".encode(), digest_size=16).digest()


def _permuted(index: int, size: int, *, key: bytes) -> int:
    """A keyed bijection on range(size): a Feistel network, walked until it lands inside."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    value = _feistel(index, half, key)
    while value >= size:
        value = _feistel(value, half, key)
    return value


def _feistel(value: int, half: int, key: bytes) -> int:
    mask = (1 << half) - 1
    left, right = value >> half, value & mask
    for turn in range(_ROUNDS):
        left, right = right, left ^ (_digest(key + bytes([turn]) + right.to_bytes(8, "big")) & mask)
    return left << half | right


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
