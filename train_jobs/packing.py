"""Packs: whole samples laid one behind the other up to a length, so that little of a row is padding.

The packing strategy is best fit decreasing (Johnson 1974) over windows of a seeded order: it follows from
lengths and seed alone, and only one window of the data is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from train_jobs.sampling import positions

WINDOW = 1 << 16


def iter_packs(
    offsets: NDArray[np.int64], max_length: int, seed: int, *, window: int = WINDOW
) -> Iterator[NDArray[np.int64]]:
    """The rows of each pack: every row once, and at most `max_length` tokens in a pack.

    Row i has `offsets[i + 1] - offsets[i]` tokens, at least one and at most `max_length`.
    """
    count = len(offsets) - 1
    for first in range(0, count, window):
        rows = positions(seed, first, min(window, count - first), dataset_size=count)
        for places in best_fit_decreasing(offsets[rows + 1] - offsets[rows], max_length):
            yield rows[places]


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Places of `lengths` in packs of at most `capacity`: longest first, each where it leaves least room."""
    packs: list[list[int]] = []
    with_space: dict[int, list[int]] = {}
    # Bit s is set where a pack has exactly s tokens left.
    spaces = 0
    for place in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[place])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            pack = with_space[space].pop()
            if not with_space[space]:
                spaces ^= 1 << space
        else:
            space, pack = capacity, len(packs)
            packs.append([])
        packs[pack].append(place)
        with_space.setdefault(space - length, []).append(pack)
        spaces |= 1 << (space - length)
    return packs
