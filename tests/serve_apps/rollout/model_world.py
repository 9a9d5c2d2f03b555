"""All that takes part in judged rollouts, on a store on disk, and all that may happen to it."""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import event, select

from cluster.errors import ConflictError, LinnetError
from cluster.registry import ModelStore
from cluster.state import looks, policies
from cluster.state.database import Database
from cluster.state.tables import DecisionRow, RolloutRow
from cluster.storage import Storage
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import reading, records
from serve_apps.rollout.controller import Controller, Nobody
from serve_apps.rollout.reading import Facts
from serve_apps.rollout.refolding import redo
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Command, Resume
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.invariants import Invariants
from tests.serve_apps.rollout.judged_world import Clock
from tests.serve_apps.rollout.simulated_gateway import Manner, SimulatedGateway
from tests.serve_apps.rollout.world import MODEL, VERSIONS, Killed

MANNERS = {"good": Manner(errors=0.01), "bad": Manner(errors=0.6), "slow": Manner(ttft=0.4)}
_LOG = logging.getLogger("serve_apps.rollout.controller")


class Meanwhile(Nobody):
    """Lets something happen between what a controller reads and what it writes."""

    def __init__(self) -> None:
        self.happens: Callable[[], object] | None = None

    def follow(self, facts: Facts) -> None:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()


class Faults(logging.Handler):
    """What a controller did not expect."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()}: {record.exc_info}")


class ModelWorld:
    """`home` is a copy of a store with three versions; `seed` of the traffic."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        found = world.settings_at(home)
        self.store = ModelStore(Storage(found.root), open_quickly(found.state_url), home)
        self.clock = Clock()
        self.facts = Invariants(self.store)
        self.faults = Faults()
        _LOG.addHandler(self.faults)
        self.manners = dict.fromkeys(VERSIONS, MANNERS["good"])
        self.serving: dict[str, str] = {}
        self.gateways: list[SimulatedGateway] = []
        self.dead: list[SimulatedGateway] = []
        self.controllers: list[Controller] = []
        self._draw = random.Random(seed)
        self._replicas = 0
        self._is_plainly_bad: dict[int, bool] = {}
        for version in VERSIONS:
            self.replica_comes(version)
        self.gateway_starts()
        self.controller_starts()

    def close(self) -> None:
        _LOG.removeHandler(self.faults)
        self.store.database.dispose()
        shutil.rmtree(self.home)

    # Traffic

    def traffic(self, requests: int, seconds: float) -> None:
        self.clock.pass_(seconds)
        self._note_what_is_bad()
        for gateway in self.gateways:
            gateway.follow()
            gateway.answer(requests, {version: self.manners[version] for version in self.serving})
            gateway.write()

    def seconds_pass(self, times: int, look: Callable[[], None]) -> None:
        for _ in range(times):
            self.traffic(120, 1)
            look()

    def _note_what_is_bad(self) -> None:
        policy = self.policy()
        if policy.judging is None or policy.candidate is None:
            return
        plain = self._answers_like("bad", policy.candidate) and self._answers_like("good", policy.stable)
        rollout = policy.judging.rollout
        self._is_plainly_bad[rollout] = self._is_plainly_bad.get(rollout, True) and plain

    def _answers_like(self, manner: str, version: str) -> bool:
        return version in self.serving and self.manners[version] is MANNERS[manner]

    def gateway_starts(self) -> None:
        if len(self.gateways) < 2:
            name = f"g{len(self.gateways) + len(self.dead)}"
            self.gateways.append(SimulatedGateway(self.store, self.clock, name, self._draw))

    def gateway_dies(self, which: int) -> None:
        self.dead.append(self.gateways.pop(which % len(self.gateways)))

    def replica_comes(self, version: str) -> None:
        if version not in self.serving:
            self._replicas += 1
            self.serving[version] = f"{version}#{self._replicas}"
            world.serve_for_long(self.store, version, self.serving[version])

    def replica_goes(self, version: str, how: str) -> None:
        replica = self.serving.pop(version, None)
        if replica is None:
            return
        world.lose_replica(self.store, version, replica, killed=how == "is killed")
        if how == "is refused":
            world.refuse_replica(self.store, version, replica)

    def mend(self) -> None:
        for version in VERSIONS:
            self.replica_comes(version)
        self.gateway_starts()
        for gateway in self.gateways:
            gateway.lags = False
        self.by_hand(Resume(model=MODEL))

    # People

    def begin(self, candidate: str, spec: dict[str, Any], *, replace: bool, attempt: int = 1) -> None:
        policy = RolloutSpec.model_validate({**spec, "candidate": candidate, "attempt": attempt})
        hand = Rollouts(self.store)
        with contextlib.suppress(LinnetError):
            hand.apply(hand.plan_begin(MODEL, candidate, policy, replace=replace))

    def by_hand(self, command: Command, killed_after: int | None = None) -> None:
        with self._killed_at(killed_after), contextlib.suppress(LinnetError):
            Rollouts(self.store).run(command)

    @contextlib.contextmanager
    def _killed_at(self, statement: int | None) -> Iterator[None]:
        if statement is None:
            yield
            return
        with contextlib.suppress(Killed), world.killed_at(self.store, statement):
            yield

    # Controllers

    def controller_starts(self) -> None:
        name = f"c{len(self.controllers)}"
        self.controllers.append(Controller(self.store, name, outside=Meanwhile(), clock=self.clock))

    def tick(self) -> None:
        written, before = self.written(), self.facts.counting.copy()
        self.controllers[-1].tick()
        self.facts.check()
        for rollout in self.facts.counting - before:
            self.counts_are(rollout, written)

    def tick_killed(self, statement: int) -> None:
        with self._killed_at(statement):
            self.controllers[-1].tick()
        self.controller_starts()

    def tick_while(self, happens: Callable[[], object]) -> None:
        controller = self.controllers[-1]
        outside = controller._outside
        assert isinstance(outside, Meanwhile)
        outside.happens = happens
        try:
            controller.tick()
        except ConflictError:
            # One that is superseded says so, and nobody else.
            if controller is self.controllers[-1]:
                raise
        outside.happens = None

    def take_over(self) -> None:
        self.controller_starts()
        self.tick()

    # What there is, and what must hold of it

    def policy(self) -> TrafficPolicy:
        with self.store.database.snapshot() as session:
            found = policies.get(session, MODEL)
        assert found is not None
        return found

    def active(self) -> list[int]:
        with self.store.database.snapshot() as session:
            return reading.active(session)

    def written(self) -> Counter[tuple[int, str, str]]:
        total: Counter[tuple[int, str, str]] = Counter()
        for gateway in (*self.gateways, *self.dead):
            total.update(gateway.written)
        return total

    def check(self) -> None:
        assert self.faults.seen == []
        self.facts.check()
        written = self.written()
        assert all(count <= written[place] for place, count in self.facts.counted.items())
        assert not [rollout for rollout in self.facts.promoted if self._is_plainly_bad.get(rollout)]

    def counts_are(self, rollout: int, written: Counter[tuple[int, str, str]]) -> None:
        places = {place for place in written | self.facts.counted if place[0] == rollout}
        for place in places:
            assert self.facts.counted[place] == written[place], place

    def check_that_all_is_counted(self) -> None:
        self.clock.pass_(61)
        active = self.active()
        self.tick()
        for rollout in active:
            self.counts_are(rollout, self.written())

    def check_that_all_is_reproduced(self) -> None:
        with self.store.database.snapshot() as session:
            rows = list(session.scalars(select(RolloutRow)))
            seen = {row.id: looks.of_rollout(session, row.id) for row in rows}
            # Each step's decision is in the looks of the last one.
            decisions = list(session.scalars(select(DecisionRow.id).where(DecisionRow.command != "advance")))
        for row in rows:
            spec = records.spec_of(row)
            assert spec is None or all(one.agrees for one in redo(spec, seen[row.id]))
        assert all(Rollouts(self.store).explain(decision).agrees for decision in decisions)


def open_quickly(url: str) -> Database:
    """A database that does not wait for the disk."""
    database = Database(url)
    event.listen(database._engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
    return database
