"""A gateway that counts what it is told to, a clock that goes when told, and a controller on both."""

from __future__ import annotations

import random
from collections import Counter
from datetime import datetime, timedelta

from cluster.registry import ModelStore
from cluster.state import policies, tallies
from cluster.state.tables import RolloutRow, utc_now
from cluster.tally import FRESH
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import reading, records
from serve_apps.rollout.controller import Controller
from serve_apps.rollout.reading import Facts
from serve_apps.rollout.service import Applied, Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import RolloutState
from serve_apps.sketch import SketchBuilder
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.world import MODEL

STRATUM = "p1"

QUICK = RolloutSpec.model_validate(
    {
        "candidate": "v2",
        "steps": [{"weight": 5}, {"weight": 50}, {"weight": 100}],
        "gates": [
            {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "5%", "min_samples": 20},
            {"metric": "ttft", "quantile": 0.5, "max_ratio": 1.5, "min_samples": 20},
        ],
    }
)


class Clock:
    """Begins now, since rows are stamped by the real one."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class World:
    """Traffic at `per_second`, split by the policy in force; `errors` and `ttft` by version."""

    def __init__(self, store: ModelStore, seed: int = 1) -> None:
        self.store = store
        world.outlast_the_test(store)
        self.clock = Clock()
        self.draw = random.Random(seed)
        self.per_second = 100
        self.errors: dict[str, float] = {}
        self.of_one_caller = 1
        """So many errors come from each caller, one after the other."""
        self.ttft: dict[str, float] = {}
        self._counts: dict[tuple[int, str], Counter[str]] = {}
        self._sketches: dict[tuple[int, str], SketchBuilder] = {}
        self.asked: Counter[str] = Counter()

    def begin(self, spec: RolloutSpec = QUICK, *, replace: bool = False) -> Applied:
        rollouts = Rollouts(self.store)
        return rollouts.apply(rollouts.plan_begin(MODEL, spec.candidate, spec, replace=replace))

    def controller(self, **options) -> Controller:
        return Controller(self.store, "test", clock=self.clock, **options)

    @property
    def policy(self) -> TrafficPolicy:
        with self.store.database.snapshot() as session:
            return policies.get(session, MODEL)

    def state(self, rollout: int) -> RolloutState:
        with self.store.database.snapshot() as session:
            return records.state_of(session.get(RolloutRow, rollout))

    def facts(self, rollout: int) -> Facts:
        with self.store.database.snapshot() as session:
            found = reading.read(session, rollout, self.clock())
        assert found is not None
        return found

    def serve(self, seconds: float = 1.0, gateway: str = "g1") -> None:
        """Answer for so long, and write the tally as a gateway does."""
        policy = self.policy
        for _ in range(round(self.per_second * seconds)):
            self._answer(policy)
        self.clock.pass_(seconds)
        self._write(policy, gateway)

    def _answer(self, policy: TrafficPolicy) -> None:
        weights = _counted_as(policy)
        version = self.draw.choices(list(weights), list(weights.values()))[0]
        self.asked[version] += 1
        place = policy.revision, version
        counts = self._counts.setdefault(place, Counter())
        counts["requests"] += 1
        counts["asked"] += 1
        if self.draw.random() < self.errors.get(version, 0.0):
            counts["errors"] += 1
            # The first of a caller makes no pair with those before it, the second one, and so on.
            before = (counts["errors"] - 1) % self.of_one_caller
            for name in ("pairs_requests", "pairs_errors"):
                counts[name] += 2 * before
            return
        ttft = self.ttft.get(version, 0.1) * self.draw.lognormvariate(0, 0.3)
        self._sketches.setdefault(place, SketchBuilder()).add(ttft)

    def _write(self, policy: TrafficPolicy, gateway: str) -> None:
        versions = {
            version: {
                "counts": dict(counts),
                "sketches": {"ttft": {STRATUM: self._sketches[revision, version].to_json()}}
                if (revision, version) in self._sketches
                else {},
            }
            for (revision, version), counts in self._counts.items()
            if revision == policy.revision
        }
        with self.store.database.transaction() as session:
            tallies.put(
                session,
                gateway=gateway,
                model=MODEL,
                revision=policy.revision,
                applied_at=self.clock.now,
                seen_at=self.clock.now,
                tally={"versions": versions},
            )

    def run(self, controller: Controller, rollout: int, seconds: int = 600) -> RolloutState:
        """Traffic and ticks in turn, until the rollout is over."""
        for _ in range(seconds):
            controller.tick()
            state = self.state(rollout)
            if state.phase in ("promoted", "rolled_back", "paused"):
                return state
            self.serve()
        return self.state(rollout)


def _counted_as(policy: TrafficPolicy) -> dict[str, float]:
    """Percent by the name that a gateway counts under."""
    weights = policy.weights()
    if policy.judging is None or policy.judging.fresh is None:
        return weights
    rest = weights.pop(policy.stable)
    compared = policy.weight if policy.has_second_slice else rest
    return {**weights, f"{FRESH}{policy.stable}": compared, policy.stable: rest - compared}
