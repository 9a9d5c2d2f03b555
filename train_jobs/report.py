"""What `linnet train show` says of a run: status, attempts, receipts and certificates, who works on it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import psutil

from cluster.config import Settings
from cluster.recovery import printing, receipts
from cluster.recovery.receipts import Receipt
from cluster.state.database import open_database
from cluster.state.tables import utc_now
from cluster.storage import Storage
from train_jobs import checkpoint, ending, runs, timeline
from train_jobs.ending import Why
from train_jobs.run_files import AttemptRecord, RunFiles, StepRecord, WorkerRecord, read_lines
from train_jobs.runs import RunStatus
from train_jobs.timeline import Cause

_IN_FULL = 3


def describe(run: str, settings: Settings) -> dict[str, Any]:
    """Everything known of a run, as JSON takes it. Raises NotFoundError for an unknown one.

    `end` tells at which step it ended and why, None while it has not.
    `goodput` is the share of the time since the first step began that went into steps that count.
    """
    with open_database(settings.state_url).snapshot() as session:
        row = runs.as_dict(runs.require(session, run), utc_now())
    files = RunFiles(Storage(settings.root), run)
    attempts, steps = files.read_attempts(), files.read_steps()
    told = timeline.summarize(attempts, steps)
    status = RunStatus(row["status"])
    workers = _live_workers(attempts) if status in runs.ACTIVE else []
    trains = status in runs.ACTIVE and status is not RunStatus.PUBLISHING
    kept = receipts.read(files.storage, files.receipts)
    end = ending.read(files)
    return {
        **row,
        "step": max(told.step, row["step"]),
        "end": end.model_dump(mode="json") if end else None,
        "attempts": [attempt.model_dump(mode="json") for attempt in told.attempts],
        "steps_redone": told.steps_redone,
        "recovered_s": told.recovered_s,
        "goodput": _goodput(steps, until=time.time() if trains else None),
        "receipts": [receipt.model_dump(mode="json") for receipt in kept],
        "certificates": read_lines(files.storage, files.certificates),
        "loss": steps[-1].loss if steps else None,
        "checkpoints": checkpoint.committed_steps(files),
        "workers": [worker.model_dump() for worker in workers],
        "pids": [worker.pid for worker in workers],
        "directory": f"{settings.root.rstrip('/')}/{files.directory}",
    }


def render(told: dict[str, Any]) -> list[str]:
    """The description as lines for a person, up to 100 columns where paths and names allow it."""
    loss = "-" if told["loss"] is None else f"{told['loss']:.4f}"
    lines = [
        f"run         {told['run']}",
        f"status      {told['status']} ({told['reason']})",
        f"step        {told['step']}/{told['total_steps']}, loss {loss}{_stopped_early(told['end'])}",
        f"published   {', '.join(told['published']) or '-'}",
        f"checkpoints {', '.join(map(str, told['checkpoints'])) or '-'}",
        f"directory   {told['directory']}",
    ]
    if told["goodput"] is not None:
        lines.append(f"goodput     {told['goodput']:.1%}")
    if told["recovered_s"] is not None:
        lines.append(
            f"failures    {told['steps_redone']} steps redone, {told['recovered_s']:.1f} s to new work"
        )
    lines += [f"rank {w['rank']:<7}pid {w['pid']} on {w['node_ip']}" for w in told["workers"]]
    return [*lines, *_receipts(told), *_timeline(told)]


def _stopped_early(end: dict[str, Any] | None) -> str:
    if end is None or end["why"] != Why.EARLY_STOPPING:
        return ""
    return f"; stopped after step {end['step']}, since it got no better"


def _receipts(told: dict[str, Any]) -> list[str]:
    """All in a table, the newest in full."""
    kept = [Receipt.model_validate(value) for value in told["receipts"]]
    if not kept:
        return []
    lines = ["", *printing.render_table(kept)]
    for receipt in kept[-_IN_FULL:]:
        lines += ["", *printing.render(receipt)]
    return lines


def _timeline(told: dict[str, Any]) -> list[str]:
    """Attempts, failures and certificates in order of time, counted from the first attempt."""
    attempts, kept = told["attempts"], told["receipts"]
    if not attempts:
        return []
    events = [(attempt["at"], [_begun(attempt), *_of_attempt(attempt, told)]) for attempt in attempts]
    events += [(receipt["at"], [_failed(receipt)]) for receipt in kept]
    began = attempts[0]["at"]
    lines = ["", "timeline"]
    for at, (first, *others) in sorted(events, key=lambda event: event[0]):
        lines.append(f"  {_clock(at - began)}  {first}")
        lines += [f"  {'':9}  {'':11} {other}" for other in others]
    return lines


def _begun(attempt: dict[str, Any]) -> str:
    recovered = attempt["recovered_s"]
    cost = f", new work after {recovered:.1f} s" if recovered is not None else ""
    cause = "resumed by command" if attempt["cause"] == Cause.COMMAND else attempt["cause"]
    count = len(attempt["workers"])
    crew = f", {count} worker{'' if count == 1 else 's'}" if count else ""
    label = f"attempt {attempt['attempt']}"
    return f"{label:11} {cause}, from step {attempt['resumed_from_step']}{crew}{cost}"


def _of_attempt(attempt: dict[str, Any], told: dict[str, Any]) -> list[str]:
    lines = [f"skipped: {sentence}" for sentence in attempt["skipped"]]
    for certificate in told["certificates"]:
        if certificate.get("attempt") == attempt["attempt"]:
            said = certificate.get("difference") or certificate.get("note") or _replayed(certificate)
            lines.append(f"certificate: {certificate.get('verdict', '-')}{f', {said}' if said else ''}")
    return lines


def _replayed(certificate: dict[str, Any]) -> str:
    steps = certificate.get("replayed_steps") or []
    if not steps:
        return ""
    span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    return f"{span} came out the same again"


def _failed(receipt: dict[str, Any]) -> str:
    victim = f", rank {receipt['victim']['rank']}" if receipt["victim"] else ""
    label = f"failure {receipt['number']}"
    done = f"{receipt['strategy']}, {receipt['total_s']:.1f} s"
    return f"{label:11} {receipt['failure_class']} after step {receipt['step']}{victim}: {done}"


def _clock(seconds: float) -> str:
    """`+h:mm:ss`, nine characters wide below ten hours of either sign."""
    sign, whole = "-" if seconds < 0 else "+", round(abs(seconds))
    return f"{sign}{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}".rjust(9)


def _goodput(steps: Sequence[StepRecord], until: float | None) -> float | None:
    if not steps:
        return None
    end = steps[-1].at if until is None else until
    return receipts.goodput([(s.step, s.step_s) for s in steps], steps[0].at - steps[0].step_s, end)


def _live_workers(attempts: list[AttemptRecord]) -> list[WorkerRecord]:
    """The last attempt's workers, without those of this host that are gone."""
    if not attempts:
        return []
    here = _own_addresses()
    return [w for w in attempts[-1].workers if w.node_ip not in here or psutil.pid_exists(w.pid)]


def _own_addresses() -> set[str]:
    return {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
