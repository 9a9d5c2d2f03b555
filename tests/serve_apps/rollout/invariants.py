"""What must hold of the state database after anything that happens to judged rollouts."""

from __future__ import annotations

import json
from collections import Counter

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.registry import ModelStore
from cluster.state import aliases, policies
from cluster.state.tables import DecisionRow, LookRow, RolloutRow
from cluster.traffic import TrafficPolicy
from serve_apps.rollout import records
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.judge.finding import Verdict
from serve_apps.rollout.look import Outcome
from serve_apps.rollout.looks import LookInputs
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import ACTIVE, Decision, Phase, Reason, RolloutState, Situation
from tests.serve_apps.rollout.world import MODEL


def weight_at(spec: RolloutSpec, step: int) -> float:
    """In percent, once step `step` has been taken; steps that wait for a person keep the weight."""
    weights = [one.weight for one in spec.steps[: step + 1] if one.weight is not None]
    return weights[-1] if weights else 0.0


class Invariants:
    """Reads what is new each time.

    `counted` is what all looks saw, by rollout, version and count; `looks`: how many there are of a rollout;
    `counting`: in how many of them there was something. `promoted`: rollouts that a controller has promoted.
    """

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._last_decision = 0
        self._decisions: Counter[int] = Counter()
        self._steps: dict[int, int] = {}
        self._policy = TrafficPolicy(model=MODEL, revision=0, stable="v1")
        self._active: RolloutState | None = None
        self.looks: Counter[int] = Counter()
        self.counted: Counter[tuple[int, str, str]] = Counter()
        self.counting: Counter[int] = Counter()
        self.promoted: set[int] = set()

    def check(self) -> None:
        with self._store.database.snapshot() as session:
            self._check_looks(session)
            self._check_decisions(session)
            self._check_rows(session)

    def _check_looks(self, session: Session) -> None:
        for rollout in session.scalars(select(RolloutRow)):
            query = select(LookRow).where(
                LookRow.rollout_id == rollout.id, LookRow.seq >= self.looks[rollout.id]
            )
            for row in session.scalars(query.order_by(LookRow.seq)):
                assert row.seq == self.looks[rollout.id]
                self.looks[rollout.id] += 1
                # What it led to is stored with it.
                holds = row.outcome["conclusion"]["action"] == Action.HOLD
                assert holds == (row.decision_id is None)
                json.dumps([row.inputs, row.outcome, rollout.progress], allow_nan=False)
                self._count(rollout, LookInputs.model_validate(row.inputs))
            assert rollout.looks == self.looks[rollout.id]

    def _count(self, rollout: RolloutRow, inputs: LookInputs) -> None:
        self.counting[rollout.id] += bool(inputs.counted)
        for one in inputs.counted:
            for version, side in ((rollout.candidate, one.candidate), (rollout.stable, one.baseline)):
                for name, count in side.counts.items():
                    assert count > 0
                    self.counted[rollout.id, version, name] += count
                for sketch in side.sketches.get("ttft", {}).values():
                    values = sketch.zeros + sum(count for _, count in sketch.buckets)
                    self.counted[rollout.id, version, "values"] += values

    def _check_decisions(self, session: Session) -> None:
        query = select(DecisionRow).where(DecisionRow.id > self._last_decision)
        for row in session.scalars(query.order_by(DecisionRow.id)):
            self._last_decision = row.id
            situation = Situation.model_validate(row.inputs["situation"])
            decision = Decision.model_validate(row.outcome)
            self._follows(row, situation, decision)
            if row.inputs["actor"].startswith("rollouts/") and row.command in ("advance", "promote"):
                self._had_reason_to_go_on(session, row, situation)
                self.promoted |= {row.rollout_id} if row.command == "promote" else set()
            if decision.rollout.reason is Reason.INCONCLUSIVE:
                self._had_no_verdict(session, row)

    def _follows(self, row: DecisionRow, situation: Situation, decision: Decision) -> None:
        """Each decision begins where the one before it ended."""
        assert situation.policy == self._policy
        assert situation.active == self._active
        moved = decision.policy != situation.policy
        assert decision.policy.revision == self._policy.revision + moved
        self._decisions[row.rollout_id] += 1
        assert row.seq == self._decisions[row.rollout_id]
        step = self._steps.get(row.rollout_id, -1)
        assert decision.rollout.step == step + (row.command == "advance")
        self._steps[row.rollout_id] = decision.rollout.step
        self._policy = decision.policy
        after = decision.rollout.model_copy(update={"id": row.rollout_id})
        self._active = after if after.phase in ACTIVE else None

    def _had_reason_to_go_on(self, session: Session, row: DecisionRow, situation: Situation) -> None:
        rollout = session.get_one(RolloutRow, row.rollout_id)
        spec = records.spec_of(rollout)
        look = session.scalars(select(LookRow).where(LookRow.decision_id == row.id)).one()
        signals = LookInputs.model_validate(look.inputs).signals
        assert spec is not None
        assert signals.serving
        assert situation.active is not None
        assert situation.active.phase is not Phase.PAUSED
        if signals.step < 0:
            return
        if spec.steps[signals.step].approve:
            assert situation.active.approved >= signals.step
            return
        assert signals.gateways
        assert situation.policy is not None
        assert min(signals.gateways.values()) >= situation.policy.revision
        seen = sum(
            one.candidate.counts.get("requests", 0)
            for other in session.scalars(select(LookRow).where(LookRow.rollout_id == rollout.id))
            if (inputs := LookInputs.model_validate(other.inputs)).signals.step == signals.step
            for one in inputs.counted
        )
        assert seen >= max(gate.min_samples for gate in spec.judged)

    def _had_no_verdict(self, session: Session, row: DecisionRow) -> None:
        """Its time alone, or a person's word, is not what it was late for."""
        look = session.scalars(select(LookRow).where(LookRow.decision_id == row.id)).one()
        spec = records.spec_of(session.get_one(RolloutRow, row.rollout_id))
        outcome, step = Outcome.model_validate(look.outcome), look.inputs["signals"]["step"]
        assert spec is not None
        assert not spec.steps[step].approve
        assert any(outcome.findings[gate.name].verdict is Verdict.INCONCLUSIVE for gate in spec.judged)

    def _check_rows(self, session: Session) -> None:
        policy, named = policies.get(session, MODEL), aliases.of_model(session, MODEL)
        assert policy == self._policy
        assert named["stable"] == policy.stable
        assert named.get("candidate") == policy.candidate
        active = []
        for row in session.scalars(select(RolloutRow)):
            assert row.step == self._steps[row.id]
            if row.phase in ACTIVE:
                active.append(row)
            elif row.phase == Phase.ROLLED_BACK.value:
                assert row.weight == 0
        if not active:
            assert (policy.candidate, policy.weight, policy.judging) == (None, 0, None)
            return
        (row,) = active
        spec = records.spec_of(row)
        assert (policy.candidate, policy.stable, policy.weight) == (row.candidate, row.stable, row.weight)
        if spec is not None:
            assert row.weight == weight_at(spec, row.step)
            judged = policy.judging.rollout if policy.judging else None
            assert judged == (row.id if row.step >= 0 else None)
