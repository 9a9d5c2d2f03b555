"""What must hold of a run when it is over, whatever happened to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from cluster.config import Settings
from cluster.recovery.classes import FailureClass
from cluster.recovery.printing import render_table
from cluster.recovery.receipts import Receipt
from tests.chaos.kinds import Strike
from tests.chaos.reference import Told
from tests.chaos.stage import Stage
from train_jobs import audit, certificate, timeline
from train_jobs.audit import Audit
from train_jobs.certificate import Verdict
from train_jobs.formation.messages import Source
from train_jobs.spec import FaultTolerance, TrainSpec

# What each run came to, for the end of the test session.
REPORTS: list[list[str]] = []


def check(
    stage: Stage, spec: TrainSpec, settings: Settings, strikes: Sequence[Strike], calm: Sequence[Told]
) -> None:
    """Losses as in `calm`, an audit without a finding, and receipts for what was struck and nothing else."""
    receipts = stage.receipts()
    told = proven(stage, settings)
    REPORTS.append([*render_table(receipts), "", *summary(strikes, receipts), "", *audit.render(told)])
    same_steps(stage, calm, exactly=True)
    receipted(strikes, receipts)
    if spec.fault_tolerance is FaultTolerance.RESTART:
        torn_are_told(stage, strikes)
        certified(receipts)


def same_steps(stage: Stage, calm: Sequence[Told], *, exactly: bool) -> None:
    """Each step's last record against the uninterrupted one."""
    records = timeline.last_of_each_step(stage.files.read_steps())
    assert [record.step for record in records] == [told.step for told in calm]
    for record, told in zip(records, calm, strict=True):
        evaluated = record.eval.get("eval_loss")
        found = Told(record.step, record.loss, record.grad_norm, record.learning_rate, evaluated)
        if exactly:
            assert found == told
        else:
            assert found.loss == pytest.approx(told.loss, rel=1e-3)
            assert found.learning_rate == told.learning_rate


def proven(stage: Stage, settings: Settings) -> Audit:
    """All of it committed, no sample lost, repeated or unproven, no restore that came out differently."""
    told = audit.audit_run(stage.files.run, settings)
    assert told.committed_step == stage.step, "the last step is in no checkpoint"
    assert (told.lost, told.repeated, told.unproven) == (0, 0, 0), told.problems
    assert told.is_proven
    assert told.certificates[Verdict.UNEQUAL] == 0
    return told


def receipted(strikes: Sequence[Strike], receipts: Sequence[Receipt]) -> None:
    """Every victim has one receipt, of a class that fits; nobody else has one but for being slow."""
    expected = {pid: strike for strike in strikes for pid in strike.pids}
    found = [receipt for receipt in receipts if receipt.failure_class is not FailureClass.SLOW_RANK]
    counts = Counter(receipt.victim.pid if receipt.victim else None for receipt in found)
    told = "\n".join(f"{r.number} {r.failure_class} {r.victim}: {r.detail}" for r in found)
    assert counts == Counter(expected.keys()), told
    for receipt in found:
        strike = expected[receipt.victim.pid]
        assert receipt.failure_class in strike.classes, (strike, receipt)
        assert receipt.total_s > 0


def torn_are_told(stage: Stage, strikes: Sequence[Strike]) -> None:
    """A torn checkpoint is named by the attempt after it, unless that found a newer one.

    One without a manifest is no checkpoint, so that nobody can name it.
    """
    attempts = stage.attempts()
    proven_from = {
        c.attempt: c.replayed_steps[0] - 1
        for c in certificate.read_certificates(stage.files)
        if c.replayed_steps
    }
    for strike in (strike for strike in strikes if strike.torn):
        after = next(a for a in attempts if a.attempt > strike.attempt)
        named = any(f"step_{strike.torn}" in sentence for sentence in after.skipped)
        is_nameless = strike.note.endswith("no manifest")
        assert named or is_nameless or proven_from[after.attempt] > strike.torn, (strike, after)
        assert proven_from.get(after.attempt) != strike.torn, (strike, after)
        assert after.source is Source.PEER or after.resumed_from_step != strike.torn


def certified(receipts: Sequence[Receipt]) -> None:
    """Most of what happened after the first commit ended with a proof."""
    after_commit = [r for r in receipts if r.committed_step and r.failure_class is not FailureClass.SLOW_RANK]
    equal = [r for r in after_commit if r.certificate == Verdict.EQUAL]
    assert 2 * len(equal) >= len(after_commit), [(r.number, r.certificate) for r in after_commit]


def summary(strikes: Sequence[Strike], receipts: Sequence[Receipt]) -> list[str]:
    """A line a kind: how often, how long until new work, how many steps again."""
    by_pid = {receipt.victim.pid: receipt for receipt in receipts if receipt.victim}
    lines = [f"{'KIND':<22} {'STRUCK':>6} {'RECEIPTS':>8} {'SECONDS':>8} {'WORST':>6} {'REDONE':>6}"]
    for kind in sorted({strike.kind for strike in strikes}):
        mine = [strike for strike in strikes if strike.kind is kind]
        own = [by_pid[pid] for strike in mine for pid in strike.pids if pid in by_pid]
        spent = [receipt.total_s for receipt in own]
        lines.append(
            f"{kind:<22} {len(mine):>6} {len(own):>8} {sum(spent):>8.1f} {max(spent, default=0):>6.1f} "
            f"{sum(receipt.steps_redone for receipt in own):>6}"
        )
    return lines
