"""A seeded monkey: it strikes a run once and again while that goes on, and keeps what it did."""

from __future__ import annotations

import random
from collections.abc import Sequence

from cluster.recovery.classes import FailureClass
from tests.chaos.kinds import ACTS, NEEDS_CALM, Kind, Strike
from tests.chaos.stage import Stage

_AT_ONCE = 0.25
_MOST_STEPS_BETWEEN = 6


class Monkey:
    """Strikes in the order of `plan`."""

    def __init__(self, stage: Stage, plan: Sequence[Kind], seed: int) -> None:
        self.stage, self.plan, self.strikes = stage, list(plan), list[Strike]()
        self._rng = random.Random(seed)

    def carry_out(self) -> list[Strike]:
        """All of the plan; what was done. Raises AssertionError when the run does not let it."""
        for kind in self.plan:
            self._strike(kind)
        return self.strikes

    def _strike(self, kind: Kind) -> None:
        at_once = bool(self.strikes) and kind not in NEEDS_CALM and self._rng.random() < _AT_ONCE
        if not at_once:
            self._wait_for_steps(self._rng.randint(2, _MOST_STEPS_BETWEEN))
        attempts = self.stage.until(self.stage.attempts, "an attempt")
        strike = Strike(kind, self.stage.step, attempts[-1].attempt)
        troubles = self._troubles()
        ACTS[kind](self.stage, self._rng, strike)
        if kind is Kind.SLOW_RANK:
            assert self._troubles() == troubles, "a slow rank was taken for a failure"
        self.strikes.append(strike)

    def _wait_for_steps(self, count: int) -> None:
        """Until all that was struck has its receipt, and some steps are new after that."""
        struck = {pid for strike in self.strikes for pid in strike.pids}
        self.stage.until(lambda: struck <= self._receipted(), f"receipts of {struck}")
        begin = self.stage.step
        self.stage.until(lambda: self.stage.step >= begin + count, f"{count} new steps")

    def _receipted(self) -> set[int]:
        return {receipt.victim.pid for receipt in self.stage.receipts() if receipt.victim}

    def _troubles(self) -> int:
        return sum(r.failure_class is not FailureClass.SLOW_RANK for r in self.stage.receipts())


def shuffled(kinds: dict[Kind, int], seed: int) -> list[Kind]:
    """So many of each kind, in a seeded order."""
    plan = [kind for kind, count in kinds.items() for _ in range(count)]
    random.Random(seed).shuffle(plan)
    return plan
