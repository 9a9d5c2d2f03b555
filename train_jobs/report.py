"""What `linnet train show` says of a run: status, attempts, the cost of failures, who works on it."""

from __future__ import annotations

from typing import Any

import psutil

from cluster.config import Settings
from cluster.state.database import open_database
from cluster.state.tables import utc_now
from cluster.storage import Storage
from train_jobs import checkpoint, runs, timeline
from train_jobs.run_files import AttemptRecord, RunFiles, WorkerRecord
from train_jobs.runs import RunStatus


def describe(run: str, settings: Settings) -> dict[str, Any]:
    """Everything known of a run, as JSON takes it. Raises NotFoundError for an unknown one."""
    with open_database(settings.state_url).snapshot() as session:
        row = runs.as_dict(runs.require(session, run), utc_now())
    files = RunFiles(Storage(settings.root), run)
    attempts, steps = files.read_attempts(), files.read_steps()
    told = timeline.summarize(attempts, steps)
    workers = _live_workers(attempts) if RunStatus(row["status"]) in runs.ACTIVE else []
    return {
        **row,
        "step": max(told.step, row["step"]),
        "attempts": [attempt.model_dump(mode="json") for attempt in told.attempts],
        "steps_redone": told.steps_redone,
        "recovered_s": told.recovered_s,
        "loss": steps[-1].loss if steps else None,
        "checkpoints": checkpoint.committed_steps(files),
        "workers": [worker.model_dump() for worker in workers],
        "pids": [worker.pid for worker in workers],
        "directory": f"{settings.root.rstrip('/')}/{files.directory}",
    }


def render(told: dict[str, Any]) -> list[str]:
    """The description as lines for a person."""
    loss = "-" if told["loss"] is None else f"{told['loss']:.4f}"
    lines = [
        f"run         {told['run']}",
        f"status      {told['status']} ({told['reason']})",
        f"step        {told['step']}/{told['total_steps']}, loss {loss}",
        f"published   {', '.join(told['published']) or '-'}",
        f"checkpoints {', '.join(map(str, told['checkpoints'])) or '-'}",
        f"directory   {told['directory']}",
    ]
    if told["recovered_s"] is not None:
        lines.append(
            f"failures    {told['steps_redone']} steps redone, {told['recovered_s']:.1f} s to new work"
        )
    for attempt in told["attempts"]:
        recovered = attempt["recovered_s"]
        cost = f", new work after {recovered:.1f} s" if recovered is not None else ""
        begun = f"{attempt['cause']}, from step {attempt['resumed_from_step']}"
        lines.append(f"attempt {attempt['attempt']}   {begun}{cost}")
        lines += [f"            skipped: {sentence}" for sentence in attempt["skipped"]]
    lines += [f"rank {w['rank']}      pid {w['pid']} on {w['node_ip']}" for w in told["workers"]]
    return lines


def _live_workers(attempts: list[AttemptRecord]) -> list[WorkerRecord]:
    """The last attempt's workers, without those of this host that are gone."""
    if not attempts:
        return []
    here = _own_addresses()
    return [w for w in attempts[-1].workers if w.node_ip not in here or psutil.pid_exists(w.pid)]


def _own_addresses() -> set[str]:
    return {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
