"""All decisions of a rollout made again, each with the arithmetic of the look that led to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.config import StrictModel
from cluster.state import looks
from cluster.state.tables import DecisionRow
from serve_apps.rollout import finding_rollouts, propagation, quantities, records
from serve_apps.rollout.for_reading import for_reading
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.evidence import Evidence
from serve_apps.rollout.judge.finding import Finding
from serve_apps.rollout.judge.terms import Kind, Test
from serve_apps.rollout.looks import Progress
from serve_apps.rollout.propagation import Followed
from serve_apps.rollout.questions import tests
from serve_apps.rollout.recomputing import recompute
from serve_apps.rollout.refolding import Redone, redo
from serve_apps.rollout.spec import RolloutSpec

NOT_CLUSTERED = 1.05
"""Up to this design effect bad answers are said to stand each for itself."""


class Arithmetic(StrictModel):
    """One gate at one look: `candidate` and `baseline` are `bad of n` at this step, or what came instead.

    `log_e_worse` is to reach `log_worse_at` for a failure, `log_e_fine` `log_fine_at` for a pass; None where
    no e-value decides. `against` and `in_favour` say the same in words. `clusters`: how bad answers come in
    clusters by caller, where they do. `for_reading`: what nothing is decided by.
    """

    gate: str
    verdict: str
    reason: str
    samples: int
    candidate: str
    baseline: str
    measured: str
    limit: str
    log_e_worse: float | None
    log_worse_at: float | None
    log_e_fine: float | None
    log_fine_at: float | None
    against: str
    in_favour: str
    clusters: str = ""
    for_reading: str = ""


class ExplainedDecision(StrictModel):
    """`look` is None for a decision that a person made; `agrees`: it recomputes to the same."""

    decision: int
    at: datetime
    command: str
    sentence: str
    actor: str
    reason: str
    agrees: bool
    look: int | None
    gates: tuple[Arithmetic, ...]


class ExplainedRollout(StrictModel):
    """`differing`: looks that say something else now than they did."""

    rollout: int
    model: str
    candidate: str
    stable: str
    looks: int
    differing: tuple[int, ...]
    decisions: tuple[ExplainedDecision, ...]
    taken_back: Followed | None

    @property
    def agrees(self) -> bool:
        """Whether all of it recomputes to the same."""
        return not self.differing and all(decision.agrees for decision in self.decisions)


def explain_rollout(session: Session, rollout: int) -> ExplainedRollout:
    """Do every look and every decision of a rollout again. Raises NotFoundError for an unknown one."""
    row = finding_rollouts.by_id(session, rollout)
    spec = records.spec_of(row)
    rows = looks.of_rollout(session, rollout)
    led_to = {one.seq: one.decision_id for one in rows if one.decision_id is not None}
    by_decision: dict[int, Redone] = {}
    differing = []
    for one in redo(spec, rows) if spec is not None else ():
        if one.seq in led_to:
            by_decision[led_to[one.seq]] = one
        if not one.agrees:
            differing.append(one.seq)
    query = select(DecisionRow).where(DecisionRow.rollout_id == rollout).order_by(DecisionRow.seq)
    return ExplainedRollout(
        rollout=rollout,
        model=row.model,
        candidate=row.candidate,
        stable=row.stable,
        looks=len(rows),
        differing=tuple(differing),
        decisions=tuple(_decision(session, one, spec, by_decision) for one in session.scalars(query)),
        taken_back=propagation.taking_back(session, row),
    )


def _decision(
    session: Session, row: DecisionRow, spec: RolloutSpec | None, by_decision: Mapping[int, Redone]
) -> ExplainedDecision:
    look = by_decision.get(row.id)
    return ExplainedDecision(
        decision=row.id,
        at=propagation.decided_at(session, row),
        command=row.command,
        sentence=row.outcome["sentence"],
        actor=row.inputs.get("actor", ""),
        reason=row.inputs.get("reason", ""),
        agrees=recompute(row).agrees,
        look=None if look is None else look.seq,
        gates=() if look is None or spec is None else arithmetic(spec, look),
    )


def arithmetic(spec: RolloutSpec, look: Redone) -> tuple[Arithmetic, ...]:
    """The gates of a policy at one look."""
    asked, findings = tests(spec), look.outcome.findings
    return tuple(_gate(gate, asked.get(gate.name), look.progress, findings[gate.name]) for gate in spec.gates)


def _gate(gate: Gate, test: Test | None, progress: Progress, finding: Finding) -> Arithmetic:
    evidence = progress.evidence.get(gate.name)
    common: dict[str, Any] = {
        "gate": gate.name,
        "verdict": finding.verdict.value,
        "reason": finding.reason,
        "samples": finding.samples,
        "measured": quantities.measured(gate, finding),
        "limit": quantities.limit(gate),
    }
    if test is None or evidence is None:
        return _without_e(common, candidate="", baseline="")
    candidate, baseline = _counts(test, evidence)
    if test.kind is Kind.THRESHOLD:
        return _without_e(common, candidate=candidate, baseline="")
    worse_at, fine_at = -math.log(test.alpha), -math.log(test.beta)
    return Arithmetic(
        **common,
        candidate=candidate,
        baseline=baseline,
        log_e_worse=finding.log_e_worse,
        log_worse_at=worse_at,
        log_e_fine=finding.log_e_fine,
        log_fine_at=fine_at,
        against=_compared(finding.log_e_worse, worse_at, "alpha"),
        in_favour=_compared(finding.log_e_fine, fine_at, "beta"),
        clusters=_clusters(evidence.clusters.design_effect),
        for_reading=for_reading(gate, test, progress),
    )


def _without_e(common: Mapping[str, Any], *, candidate: str, baseline: str) -> Arithmetic:
    return Arithmetic(
        **common,
        candidate=candidate,
        baseline=baseline,
        log_e_worse=None,
        log_worse_at=None,
        log_e_fine=None,
        log_fine_at=None,
        against="",
        in_favour="",
    )


def _counts(test: Test, evidence: Evidence) -> tuple[str, str]:
    if test.kind is Kind.PAIRED:
        return f"{evidence.mean.n:,} pairs", ""
    counts = evidence.counts
    ours = f"{counts.bad_candidate:,} of {counts.n_candidate:,}"
    if test.kind not in (Kind.RATIO, Kind.QUANTILE_RATIO):
        return ours, ""
    return ours, f"{counts.bad_baseline:,} of {counts.n_baseline:,}"


def _clusters(effect: float) -> str:
    if effect <= NOT_CLUSTERED:
        return ""
    return f"bad answers come in clusters by caller, so {effect:.1f} of them count as one"


def _compared(log_e: float, at: float, error: str) -> str:
    """`e = 41.2 against 1/alpha = 120: not yet`."""
    sign = "reached" if log_e >= at else "not yet"
    return f"e = {_power(log_e)} against 1/{error} = {_power(at)}: {sign}"


def _power(log: float) -> str:
    """A number whose logarithm may be beyond a float's."""
    if abs(log) < math.log(1e6):
        return f"{math.exp(log):,.0f}" if log > math.log(1e3) else f"{math.exp(log):.3g}"
    exponent = math.floor(log / math.log(10))
    return f"{10 ** (log / math.log(10) - exponent):.1f}e{exponent:+d}"
