"""Answers that are caught in a loop: the same words or characters again and again, back to back.

A loop is a run of one unit, repeated at least `REPEATS` times and over `LENGTH` bytes, with which the text
ends, or which makes up half of it. Case and the kind of white space do not count. A refrain, an enumeration,
rows of a table or closing brackets do not come to that; a run of nothing but digits, rules and brackets,
such as a matrix of zeros, must be much longer.
"""

from __future__ import annotations

from collections.abc import Iterator

REPEATS = 6
LENGTH = 120
"""Bytes of UTF-8, so that scripts that say more in a character are held to fewer."""

_DRY_LENGTH = 800
_DRY = frozenset(
    "0123456789-=_*~#.,;:|+&\\/()[]{}<>'\"` \u2500\u2501\u2502\u2550\u2551\u2588\u2026\u00b7\u2022"
)
_BLANK = 200
"""White space at the end that no text needs."""

_SHORTEST_PROBE = 16
_PARTS = 8


def is_repetitive(text: str) -> bool:
    """Whether it is caught in a loop."""
    if len(text) - len(text.rstrip()) >= _BLANK:
        return True
    flat = " ".join(text.casefold().split())
    return _ends_in_loop(flat) or _is_mostly_loop(flat)


def _ends_in_loop(text: str) -> bool:
    return any(_is_loop(text[len(text) - run :], period) for period, run in _runs_before(text, len(text)))


def _is_mostly_loop(text: str) -> bool:
    # A run over half of the text holds one of these places, and most of itself before it.
    length = len(text)
    for part in range(_PARTS // 2, _PARTS):
        place = length * part // _PARTS
        for period, before in _runs_before(text, place):
            after = _common(text, place, place - period, forward=True)
            run = text[place - before : place + after]
            if 2 * len(run) >= length and _is_loop(run, period):
                return True
    return False


def _is_loop(run: str, period: int) -> bool:
    # A unit that ends in a blank has lost it where the text ends.
    lost = run[-period] == " "
    if len(run) + lost < REPEATS * period:
        return False
    size = len(run.encode("utf-8", "replace"))
    return size >= (_DRY_LENGTH if _DRY.issuperset(run[:period]) else LENGTH)


def _runs_before(text: str, end: int) -> Iterator[tuple[int, int]]:
    """Period and length of runs of a unit that end at `end`.

    The last occurrence of a probe before itself gives a period. It is the true one where the probe is at
    least twice as long, and the run holds the probe and a period more: so probes of growing length.
    """
    probe, known = _SHORTEST_PROBE, 0
    while 2 * probe <= end:
        found = text.rfind(text[end - probe : end], 0, end - 1)
        if found < 0:
            return
        period = end - probe - found
        if period != known:
            yield period, period + _common(text, end, end - period, forward=False)
        probe, known = probe + probe // 2, period


def _common(text: str, one: int, other: int, *, forward: bool) -> int:
    """How many characters are the same from both places on, or before both. `other` is the smaller."""
    low, high = 0, len(text) - one if forward else other
    while low < high:
        middle = (low + high + 1) // 2
        same = (
            text[one : one + middle] == text[other : other + middle]
            if forward
            else text[one - middle : one] == text[other - middle : other]
        )
        low, high = (middle, high) if same else (low, middle - 1)
    return low
