"""Simulated rollouts: traffic that drifts, bursts that hit both versions, heavy tails, and a fault.

Time goes in ticks of ten seconds. What moves both versions (load, bursts, slow times) is drawn once for each
rollout, so that all rules judge the same hours; how many requests the candidate has in them depends on
the weight that a rule has given it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from serve_apps.sketch import bucket_of

STEPS = (1.0, 5.0, 25.0, 50.0)
TICK_S, TICKS = 10, 6 * 360
PER_SECOND = 200.0
PAIRS_PER_TICK = 10
ERRORS, BURST_ERRORS = 0.008, 0.09
BURST_EVERY_TICKS, BURST_TICKS = 180, 4
REPETITIONS, EMPTY = 0.001, 0.001
CHANGED, ACCURACY = 0.04, 0.8
_CHUNK = 64
_DRAWN = 1_000_000
# Latencies are multiples of e ** (log 2 / 12): twelve of these steps are twice as slow.
ATOM, ATOMS, MARGIN, TWICE = np.log(2) / 12, 200, 60, 12
_TTFT_S, _ITL_S = 0.02, 0.004

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Fault:
    """What is wrong with the candidate; `harm` is the share of its answers that this makes worse.

    `in_a_row`: how many errors a caller has one after the other in the mean, of both versions. Callers stay
    with one version, so with more than 1 errors are no longer spread over the versions as requests are.
    `asks`: how many requests a caller makes in a tick, each an error or not as if it were somebody else's.
    """

    name: str
    harm: float
    errors: float = 0.0
    repetitions: float = 0.0
    slower_beyond: float = 1.0
    broken: float = 0.0
    in_a_row: float = 1.0
    asks: int = 1


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("none", 0.0),
        Fault("errors 1% to 3%", 0.02, errors=0.02),
        Fault("p99 TTFT x2", 0.02, slower_beyond=0.98),
        Fault("quality -5 points", 0.05, broken=0.05),
        Fault("loops in 2%", 0.02, repetitions=0.02),
        Fault("TTFT x2", 1.0, slower_beyond=0.0),
        Fault("errors 100%", 1.0, errors=1.0),
        Fault("none, five errors a caller", 0.0, in_a_row=5.0),
        Fault("1% to 3%, five errors a caller", 0.02, errors=0.02, in_a_row=5.0),
        Fault("none, ten requests a caller", 0.0, asks=10),
        Fault("1% to 3%, ten requests a caller", 0.02, errors=0.02, asks=10),
    )
}


@dataclass(frozen=True)
class Arm:
    """What one version did in a tick; latencies as counts of atoms, from the smallest on.

    `pairs`, `error_pairs`: of one caller's requests, and of one caller's errors.
    """

    n: int
    errors: int
    repetitions: int
    empty: int
    ttft: Ints
    itl: Ints
    pairs: int = 0
    error_pairs: int = 0


@dataclass(frozen=True)
class Tick:
    """`control`: as many of the baseline's requests as the candidate had. `worse`, `better`: of the pairs."""

    candidate: Arm
    baseline: Arm
    control: Arm
    worse: int
    better: int


@dataclass(frozen=True)
class Hours:
    """What a rollout meets: requests a tick, the chance of an error, by how many atoms all is slower."""

    requests: Floats
    errors: Floats
    slower: Ints


def hours(seed: int) -> Hours:
    """Six hours at a random time of the day, with bursts of errors and of slowness."""
    draw = np.random.default_rng([seed, 0])
    at = (np.arange(TICKS) * TICK_S / 86400 + draw.random()) * 2 * np.pi
    load = 1 + 0.5 * np.sin(at)
    errors = ERRORS + BURST_ERRORS * _bursts(draw)
    slower = 0.4 * np.log(load) + 0.5 * _bursts(draw) + draw.normal(0, 0.08, TICKS)
    return Hours(PER_SECOND * TICK_S * load, errors, np.rint(slower / ATOM).astype(np.int64))


def _bursts(draw: np.random.Generator) -> Floats:
    begins = draw.random(TICKS) < 1 / BURST_EVERY_TICKS
    lengths = draw.geometric(1 / BURST_TICKS, TICKS)
    on = np.zeros(TICKS)
    for begin in np.flatnonzero(begins):
        on[begin : begin + lengths[begin]] = 1
    return on


class Rollout:
    """A stream of ticks, of which the weight may be set in between."""

    def __init__(self, seed: int, fault: Fault, rule: int) -> None:
        self._hours = hours(seed)
        self._fault = fault
        self._draw = np.random.default_rng([seed, 1 + rule])
        self.weight = STEPS[0]
        self.ticks = 0

    def __iter__(self) -> Iterator[Tick]:
        while self.ticks < TICKS:
            weight, chunk = self.weight, slice(self.ticks, min(self.ticks + _CHUNK, TICKS))
            for tick in self._ticks(chunk):
                self.ticks += 1
                yield tick
                if self.weight != weight:
                    break

    def _ticks(self, at: slice) -> Iterator[Tick]:
        draw, fault = self._draw, self._fault
        requests = draw.poisson(self._hours.requests[at])
        n = draw.binomial(requests, self.weight / 100)
        candidate = self._arm(n, fault, at)
        good = replace(fault, errors=0.0, repetitions=0.0, slower_beyond=1.0, broken=0.0)
        baseline, control = self._arm(requests - n, good, at), self._arm(n, good, at)
        worse = draw.binomial(PAIRS_PER_TICK, CHANGED + fault.broken, len(n))
        better = draw.binomial(PAIRS_PER_TICK - worse, CHANGED / (1 - CHANGED - fault.broken))
        for number in range(len(n)):
            arms = (candidate[number], baseline[number], control[number])
            yield Tick(*arms, int(worse[number]), int(better[number]))

    def _arm(self, n: Ints, fault: Fault, at: slice) -> list[Arm]:
        draw = self._draw
        errors, of_callers = self._errors(n, np.minimum(self._hours.errors[at] + fault.errors, 1))
        repetitions = draw.binomial(n, REPETITIONS + fault.repetitions)
        empty = draw.binomial(n, EMPTY)
        ttft, itl = draw.multinomial(n, ttft_shares(fault.slower_beyond)), draw.multinomial(n, itl_shares())
        # Each version's replicas have good and bad moments of their own, too.
        slower = self._hours.slower[at] + np.rint(draw.normal(0, 0.04, len(n)) / ATOM).astype(np.int64)
        return [
            Arm(
                int(n[i]),
                int(errors[i]),
                int(repetitions[i]),
                int(empty[i]),
                np.roll(ttft[i], slower[i]),
                np.roll(itl[i], slower[i]),
                int(of_callers[0][i]),
                int(of_callers[1][i]),
            )
            for i in range(len(n))
        ]

    def _errors(self, n: Ints, chance: Floats) -> tuple[Ints, tuple[Ints, Ints]]:
        """With the pairs of requests, and of errors, that are of one caller."""
        draw, row, asks = self._draw, self._fault.in_a_row, self._fault.asks
        if row > 1:
            return _in_rows(draw, n, draw.poisson(n * chance / row), row)
        errors = draw.binomial(n, chance)
        if asks == 1:
            return errors, (0 * n, 0 * n)
        whole, rest = np.divmod(n, asks)
        pairs = whole * asks * (asks - 1) + rest * (rest - 1)
        found = [_pairs_by_chance(draw, *both, asks) for both in zip(n, errors, strict=True)]
        return errors, (pairs, np.array(found))


def _in_rows(draw: np.random.Generator, n: Ints, callers: Ints, row: float) -> tuple[Ints, tuple[Ints, Ints]]:
    sizes, ticks = draw.geometric(1 / row, callers.sum()), np.repeat(np.arange(len(n)), callers)
    errors, pairs = (
        np.bincount(ticks, of_each, minlength=len(n)).astype(np.int64)
        for of_each in (sizes, sizes * (sizes - 1))
    )
    pairs = np.minimum(pairs, n * (n - 1))
    return np.minimum(errors, n), (pairs, pairs)


def _pairs_by_chance(draw: np.random.Generator, n: int, errors: int, asks: int) -> int:
    of_each = np.bincount(draw.choice(n, errors, replace=False, shuffle=False) // asks)
    return int((of_each * (of_each - 1)).sum())


@cache
def ttft_shares(slower_beyond: float) -> Floats:
    """Of each atom; all values beyond a quantile are twice as large."""
    draw = np.random.default_rng(0)
    body, tail = _lognormal(draw, 0.25, 0.6), _pareto(draw, 0.5, 2.2)
    shares = _atoms(np.where(draw.random(_DRAWN) < 0.05, tail, body), _TTFT_S)
    slow = np.cumsum(shares) > slower_beyond
    moved = np.where(slow, 0, shares)
    moved[TWICE:] += np.where(slow, shares, 0)[:-TWICE]
    return np.asarray(moved / moved.sum())


@cache
def itl_shares() -> Floats:
    """Of each atom."""
    draw = np.random.default_rng(0)
    body, tail = _lognormal(draw, 0.03, 0.3), _pareto(draw, 0.06, 2.5)
    return _atoms(np.where(draw.random(_DRAWN) < 0.02, tail, body), _ITL_S)


def _lognormal(draw: np.random.Generator, median: float, sigma: float) -> Floats:
    return median * np.exp(sigma * draw.standard_normal(_DRAWN))


def _pareto(draw: np.random.Generator, least: float, index: float) -> Floats:
    return least * (1 + draw.pareto(index, _DRAWN))


def _atoms(values: Floats, first: float) -> Floats:
    """The share of each atom; room is left on both sides for slow and quick times."""
    atoms = np.rint(np.log(values / first) / ATOM).astype(np.int64)
    counts = np.bincount(np.clip(atoms, MARGIN // 3, ATOMS - MARGIN), minlength=ATOMS)
    return np.asarray(counts / counts.sum())


@cache
def buckets(first: float) -> tuple[int, ...]:
    """The sketch's bucket of each atom."""
    return tuple(bucket_of(first * float(np.exp(ATOM * atom))) for atom in range(ATOMS))


TTFT_BUCKETS, ITL_BUCKETS = buckets(_TTFT_S), buckets(_ITL_S)


def atom_at(counts: Ints | Floats, quantile: float) -> int:
    """The atom of a quantile."""
    return int(np.searchsorted(np.cumsum(counts), quantile * counts.sum()))
