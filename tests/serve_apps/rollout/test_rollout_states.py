"""Any commands in any order, replicas coming and going, commands cut short: what must always hold."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from cluster.config import Settings
from cluster.errors import LinnetError
from cluster.registry import ModelStore
from cluster.state import policies
from cluster.state.database import Database
from cluster.state.tables import DecisionRow, RolloutRow
from cluster.storage import Storage
from serve_apps.rollout import records
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.states import Phase, Promote, Reason, Rollback, SetWeight, Start
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.world import MODEL, VERSIONS

WEIGHTS = st.one_of(
    st.integers(0, 10_000).map(lambda hundredths: hundredths / 100), st.sampled_from([-1.0, 100.5, 0.005])
)


class RolloutMachine(RuleBasedStateMachine):
    template: Path

    def __init__(self):
        super().__init__()
        self.home = Path(tempfile.mkdtemp(dir=self.template.parent))
        shutil.copytree(self.template, self.home, dirs_exist_ok=True)
        found: Settings = world.settings_at(self.home)
        self.store = ModelStore(Storage(found.root), Database(found.state_url), self.home)
        self.rollouts = Rollouts(self.store)
        self.revision = 0
        self.undoable: tuple[str, str] | None = None

    def teardown(self):
        self.store.database.dispose()
        shutil.rmtree(self.home)

    @initialize()
    def all_serve(self):
        for version in VERSIONS:
            world.set_replica(self.store, version)

    @rule(version=st.sampled_from(VERSIONS), serves=st.booleans())
    def replica(self, version, serves):
        (world.set_replica if serves else world.drop_replica)(self.store, version)

    @rule(candidate=st.sampled_from(VERSIONS), weight=WEIGHTS)
    def start(self, candidate, weight):
        self._run(Start(model=MODEL, candidate=candidate, weight=weight))

    @rule(weight=WEIGHTS)
    def set_weight(self, weight):
        self._run(SetWeight(model=MODEL, weight=weight))

    @rule()
    def promote(self):
        was = self._situation().policy.stable
        applied = self._run(Promote(model=MODEL))
        if applied:
            assert self.store.aliases(MODEL)["previous"] == was
            self.undoable = (was, applied.decision.policy.stable)

    @rule(force=st.booleans())
    def rollback(self, force):
        met = self._situation()
        applied = self._run(Rollback(model=MODEL, force=force))
        if met.active is not None and force:
            assert applied
        if applied and met.active is None:
            assert self.undoable == (applied.decision.policy.stable, met.policy.stable)
            self.undoable = None
        if applied:
            assert applied.decision.policy.weight == 0

    @precondition(lambda self: self._situation().active is not None)
    @rule(statement=st.integers(0, 25))
    def killed_while_promoting(self, statement):
        before = world.dump(self.store)
        with world.killed_at(self.store, statement), contextlib.suppress(world.Killed, LinnetError):
            self.rollouts.run(Promote(model=MODEL))
        if world.dump(self.store) != before:
            # Cut short after the commit: all of it must be there, which the invariants check.
            newest = self._situation().last_change
            assert newest.reason is Reason.PROMOTED
            self.undoable = (newest.stable, newest.candidate)

    @invariant()
    def policy_and_aliases_agree(self):
        met = self._situation()
        assert sum(met.policy.weights().values()) == pytest.approx(100)
        assert met.aliases["stable"] == met.policy.stable
        assert met.aliases.get("candidate") == met.policy.candidate
        assert met.aliases.get("previous") != met.policy.stable

    @invariant()
    def at_most_one_rollout_is_active_and_it_is_the_policy(self):
        with self.store.database.snapshot() as session:
            active = session.scalars(
                select(RolloutRow).where(RolloutRow.phase == Phase.PROGRESSING.value)
            ).all()
            policy = policies.get(session, MODEL)
        assert [(row.candidate, row.stable, row.weight) for row in active] == (
            [(policy.candidate, policy.stable, policy.weight)] if policy.candidate else []
        )

    @invariant()
    def each_decision_grew_the_revision_by_one_and_recomputes(self):
        with self.store.database.snapshot() as session:
            rows = session.scalars(select(DecisionRow).order_by(DecisionRow.id)).all()
        assert [row.outcome["policy"]["revision"] for row in rows] == list(range(1, len(rows) + 1))
        assert all(self.rollouts.explain(row.id).agrees for row in rows[-2:])

    def _situation(self):
        with self.store.database.snapshot() as session:
            return records.read_situation(session, MODEL)

    def _run(self, command):
        before = world.dump(self.store)
        try:
            applied = self.rollouts.run(command)
        except LinnetError:
            assert world.dump(self.store) == before
            return None
        assert world.dump(self.store) != before
        return applied


def test_any_order_of_commands_and_failures_keeps_the_invariants(tmp_path):
    template = tmp_path / "template"
    world.make_store(template).database.dispose()
    RolloutMachine.template = template
    run_state_machine_as_test(
        RolloutMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
