"""Which sample is trained in which step, and by whom: a pure function of the seed and the position.

The order of all samples is fixed by the seed alone. Each pass over the data is another keyed
permutation, computed for the positions asked for, so nothing needs to be held or replayed. A step is
cut into equal slots of microbatches; how many workers live decides only who computes which slots.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 8
# Few enough positions at once that all of it stays in a core's own cache.
_CHUNK = 1 << 15
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

_U64 = NDArray[np.uint64]


def step_samples(seed: int, step: int, *, dataset_size: int, batch_size: int) -> list[int]:
    """Indices of the `batch_size` samples of `step` (counted from 1), in order."""
    first = (step - 1) * batch_size
    found: list[int] = positions(seed, first, batch_size, dataset_size=dataset_size).tolist()
    return found


def positions(seed: int, first: int, count: int, *, dataset_size: int) -> NDArray[np.int64]:
    """Indices of the samples at the positions `first` to `first + count - 1` of all training, shape (count,).

    The positions of one pass over the data, `dataset_size` of them, hold every index once.
    """
    bases = _base_keys(seed)
    found = np.empty(count, dtype=np.int64)
    for start in range(0, count, _CHUNK):
        part = found[start : start + _CHUNK]
        place = np.arange(first + start, first + start + len(part), dtype=np.uint64)
        epochs, inside = np.divmod(place, np.uint64(dataset_size))
        part[:] = _permuted(inside, dataset_size, _round_keys(bases, epochs))
    return found


def split_microbatches(samples: Sequence[int], rows: int) -> list[list[int]]:
    """Consecutive groups of `rows` samples."""
    return [list(samples[start : start + rows]) for start in range(0, len(samples), rows)]


def slots_of(rank: int, world_size: int, slots: int) -> range:
    """Which of a step's `slots` equal parts a member computes: all of them exactly once over the ranks."""
    return range(rank, slots, world_size)


def slot_microbatches(samples: Sequence[int], slot: int, slots: int, rows: int) -> list[list[int]]:
    """The microbatches of `rows` samples in one slot of a step: every `slots`-th, from the `slot`-th on."""
    return split_microbatches(samples, rows)[slot::slots]


def draw_seed(seed: int, step: int, microbatch: int) -> int:
    """Seed of every random draw (dropout) made while computing one microbatch."""
    return _digest(f"draw/{seed}/{step}/{microbatch}") >> 1


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _base_keys(seed: int) -> _U64:
    return np.array([[_digest(f"order/{seed}/{turn}")] for turn in range(_ROUNDS)], dtype=np.uint64)


def _round_keys(bases: _U64, epochs: _U64) -> _U64:
    """One key a round, shape (rounds, 1) where all positions are of one epoch, else (rounds, positions)."""
    if epochs[0] == epochs[-1]:
        epochs = epochs[:1]
    return _mixed(bases + epochs * _GOLDEN)


def _permuted(value: _U64, size: int, keys: _U64) -> _U64:
    """A keyed bijection on range(size): one on the next power of two, walked until it lands inside."""
    bits = (size - 1).bit_length()
    value = _feistel(value, bits, keys)
    outside = np.flatnonzero(value >= size)
    while len(outside):
        walked = _feistel(value[outside], bits, keys if keys.shape[1] == 1 else keys[:, outside])
        value[outside] = walked
        outside = outside[walked >= size]
    return value


def _feistel(value: _U64, bits: int, keys: _U64) -> _U64:
    """A bijection on range(2 ** bits): the halves in turn are xored with a keyed mix of the other."""
    low_bits, high_bits = bits - bits // 2, bits // 2
    halves = [value & np.uint64((1 << low_bits) - 1), value >> np.uint64(low_bits)]
    masks = [np.uint64((1 << low_bits) - 1), np.uint64((1 << high_bits) - 1)]
    for turn, key in enumerate(keys):
        mine = turn % 2
        halves[mine] ^= _mixed(halves[1 - mine] + key) & masks[mine]
    return halves[1] << np.uint64(low_bits) | halves[0]


def _mixed(value: _U64) -> _U64:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014); takes its argument over."""
    value ^= value >> np.uint64(30)
    value *= _MIX_1
    value ^= value >> np.uint64(27)
    value *= _MIX_2
    value ^= value >> np.uint64(31)
    return value
