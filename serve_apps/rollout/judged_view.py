"""How a judged rollout stands: its steps, its gates, what it waits for, and what gateways do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.judging import Judging
from cluster.state import looks, policies, tallies
from cluster.state.tables import DecisionRow, RolloutRow
from cluster.tally import FRESH, Tally
from serve_apps.rollout import propagation, quantities, reading, records
from serve_apps.rollout.for_reading import for_reading
from serve_apps.rollout.gate_spec import Gate, Source
from serve_apps.rollout.judge.finding import Finding, Verdict
from serve_apps.rollout.look import Outcome
from serve_apps.rollout.looks import Progress
from serve_apps.rollout.metrics import METRICS
from serve_apps.rollout.propagation import Routing
from serve_apps.rollout.questions import is_tested, tests
from serve_apps.rollout.spec import RolloutSpec, Step
from serve_apps.rollout.states import ACTIVE, Phase, percent
from serve_apps.rollout.units import written


class StepState(StrEnum):
    """`ended`: where the rollout was taken back."""

    DONE = "done"
    PRESENT = "present"
    TO_COME = "to_come"
    ENDED = "ended"


class StepView(StrictModel):
    """One step; `number` from 1. `what` is its weight, or whom it waits for."""

    number: int
    what: str
    at_least: str | None
    state: StepState


class GateView(StrictModel):
    """One gate after the last look.

    `measured` and `limit` in words, the numbers as the judge has them. `missing` answers of the candidate
    (pairs, for gates of pairs) take about `missing_s` seconds at this step's traffic. `compares`: False at
    100%, for gates that compare with the baseline, of which nothing is left. `for_reading`: what nothing is
    decided by.
    """

    gate: str
    severity: str
    verdict: Verdict
    reason: str
    compares: bool
    samples: int
    samples_are: str
    measured: str
    limit: str
    effect: float | None
    low: float | None
    high: float | None
    missing: int | None
    missing_s: float | None
    for_reading: str


class ShadowView(StrictModel):
    """Copies of requests under the present revision: `failed` of `copies` got no answer."""

    sample: float
    on: bool
    copies: int
    failed: int


class JudgedView(StrictModel):
    """`step` of `steps` is its number, 0 before the first; seconds at it, and of its hold that are left.

    `observed`: the candidate's share in percent of the `requests` counted under the present revision.
    `following` of `gateways` route by it. `waits_for`: what the last look concluded.
    """

    step: int
    steps: tuple[StepView, ...]
    at_step_s: float | None
    hold_left_s: float | None
    looks: int
    looked_at: datetime | None
    waits_for: str
    observed: float | None
    requests: int
    gateways: int
    following: int
    gates: tuple[GateView, ...]
    shadow: ShadowView | None


def judged_view(session: Session, row: RolloutRow, now: datetime) -> JudgedView | None:
    """Read it; None for a rollout that people move."""
    spec = records.spec_of(row)
    if spec is None:
        return None
    active = row.phase in [phase.value for phase in ACTIVE]
    progress, _ = reading.known(row.progress)
    last = looks.newest(session, row.id)
    outcome = None if last is None else Outcome.model_validate(last.outcome)
    policy = policies.get(session, row.model)
    revision = policy.revision if policy is not None and active else None
    counted = _counted(session, row.model, revision)
    newest = _newest_revisions(propagation.routings(session, row.model), now) if active else {}
    observed, requests = _observed(counted, row)
    step = spec.steps[row.step] if active and row.step >= 0 else None
    return JudgedView(
        step=row.step + 1,
        steps=tuple(_steps(spec, row)),
        at_step_s=_since_step(session, row, now) if active else None,
        hold_left_s=_hold_left(step, progress, row),
        looks=row.looks,
        looked_at=last.at if last is not None else None,
        waits_for=outcome.conclusion.why if outcome is not None else "the first look",
        observed=observed,
        requests=requests,
        gateways=len(newest),
        following=sum(found >= (revision or 0) for found in newest.values()),
        gates=tuple(_gates(spec, outcome, progress, counted, row.weight)),
        shadow=_shadow(policy.judging if policy is not None else None, row, counted),
    )


def _steps(spec: RolloutSpec, row: RolloutRow) -> Iterable[StepView]:
    for index, step in enumerate(spec.steps):
        held = step.soak or step.hold
        yield StepView(
            number=index + 1,
            what="a person's approval" if step.weight is None else percent(step.weight),
            at_least=None if held is None else f"{'soak' if step.soak else 'hold'} {written(held)}",
            state=_state(index, row),
        )


def _state(index: int, row: RolloutRow) -> StepState:
    if row.phase == Phase.PROMOTED.value or index < row.step:
        return StepState.DONE
    if index > row.step:
        return StepState.TO_COME
    return StepState.ENDED if row.phase == Phase.ROLLED_BACK.value else StepState.PRESENT


def _since_step(session: Session, row: RolloutRow, now: datetime) -> float:
    """Since the decision that took the step, or began the rollout."""
    query = select(DecisionRow).where(
        DecisionRow.rollout_id == row.id, DecisionRow.command.in_(["begin", "advance"])
    )
    taken = session.scalars(query.order_by(DecisionRow.seq.desc()).limit(1)).first()
    begun = row.started_at if taken is None else propagation.decided_at(session, taken)
    return max((now - begun).total_seconds(), 0.0)


def _hold_left(step: Step | None, progress: Progress, row: RolloutRow) -> float | None:
    if step is None or not step.at_least_s:
        return None
    watched = progress.watched_s if progress.step == row.step else 0.0
    return max(step.at_least_s - watched, 0.0)


def _newest_revisions(known: Iterable[Routing], now: datetime) -> dict[str, int]:
    newest: dict[str, int] = {}
    for one in known:
        if one.seen_at >= now - reading.GATEWAY_SILENT:
            newest[one.gateway] = max(newest.get(one.gateway, 0), one.revision)
    return newest


def _counted(session: Session, model: str, revision: int | None) -> list[Tally]:
    if revision is None:
        return []
    return [one.tally for one in tallies.of_model(session, model, revisions=[revision])]


def _observed(counted: Iterable[Tally], row: RolloutRow) -> tuple[float | None, int]:
    asked = {row.candidate: 0, row.stable: 0}
    for tally in counted:
        for name, found in tally.versions.items():
            version = name.removeprefix(FRESH)
            if version in asked:
                asked[version] += found.counts.get("requests", 0)
    total = sum(asked.values())
    return (100 * asked[row.candidate] / total if total else None), total


def _gates(
    spec: RolloutSpec, outcome: Outcome | None, progress: Progress, counted: Iterable[Tally], weight: float
) -> Iterable[GateView]:
    findings: Mapping[str, Finding] = {} if outcome is None else outcome.findings
    pairs, asked = _pairs(counted), tests(spec)
    for gate in spec.gates:
        finding = findings.get(gate.name)
        missing = None if finding is None else finding.missing
        yield GateView(
            gate=gate.name,
            severity=gate.severity.value,
            verdict=Verdict.INCONCLUSIVE if finding is None else finding.verdict,
            reason="nobody has looked yet" if finding is None else finding.reason,
            compares=quantities.compares(gate, weight),
            samples=0 if finding is None else finding.samples,
            samples_are=quantities.samples_are(gate) if is_tested(gate) else "",
            measured="" if finding is None else quantities.measured(gate, finding),
            limit=quantities.limit(gate),
            effect=None if finding is None else finding.effect,
            low=None if finding is None else finding.low,
            high=None if finding is None else finding.high,
            missing=missing,
            missing_s=_missing_s(gate, finding, progress, pairs) if missing and finding else None,
            for_reading=for_reading(gate, asked[gate.name], progress) if gate.name in asked else "",
        )


def _missing_s(gate: Gate, finding: Finding, progress: Progress, pairs: Mapping[str, int]) -> float | None:
    """As fast as samples have come at this step; None for a held-out set, which comes in rounds."""
    if gate.data is not None or not progress.watched_s or not finding.missing:
        return None
    event = METRICS[gate.metric].event if gate.metric is not None else ""
    seen = pairs.get(event, 0) if gate.source is Source.SHADOW else finding.samples
    return finding.missing * progress.watched_s / seen if seen else None


def _pairs(counted: Iterable[Tally]) -> dict[str, int]:
    found: dict[str, int] = {}
    for tally in counted:
        for check, pairs in tally.pairs.items():
            found[check] = found.get(check, 0) + pairs.n
    return found


def _shadow(judging: Judging | None, row: RolloutRow, counted: Sequence[Tally]) -> ShadowView | None:
    if judging is None or judging.shadow is None or judging.rollout != row.id:
        return None
    return ShadowView(
        sample=judging.shadow.sample,
        on=judging.shadow.is_on(row.weight),
        copies=sum(tally.shadow_requests for tally in counted),
        failed=sum(tally.shadow_errors for tally in counted),
    )
