"""What the monkey can do to a run; each kind waits for its moment, strikes, and says whom it struck."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import psutil

from cluster.recovery.classes import FailureClass
from tests.chaos.stage import Stage

_SLOW_S, _STOPPED_S, _RUNNING_S = 3.0, 0.25, 0.15
_REFUSED_S = 2.0
_CRASH = frozenset({FailureClass.WORKER_CRASH})


class Kind(StrEnum):
    KILL_WORKER = "kill_worker"
    FREEZE_WORKER = "freeze_worker"
    KILL_DURING_START = "kill_during_start"
    KILL_DURING_SAVE = "kill_during_save"
    KILL_DURING_EVALUATION = "kill_during_evaluation"
    KILL_DURING_RECOVERY = "kill_during_recovery"
    TORN_CHECKPOINT = "torn_checkpoint"
    STORAGE_REFUSED = "storage_refused"
    SLOW_RANK = "slow_rank"


# Those that hold against what the run did just before need it to be past its last failure.
NEEDS_CALM = frozenset({Kind.SLOW_RANK, Kind.TORN_CHECKPOINT, Kind.STORAGE_REFUSED})


@dataclass
class Strike:
    """One failure that was made. `pids` must each have a receipt of one of `classes`.

    `torn` is the step of the checkpoint that was damaged, `attempt` the one that was struck.
    """

    kind: Kind
    step: int
    attempt: int
    pids: list[int] = field(default_factory=list)
    classes: frozenset[FailureClass] = _CRASH
    torn: int = 0
    note: str = ""


def kill_worker(stage: Stage, rng: random.Random, strike: Strike) -> None:
    _kill(stage, rng.choice(_members(stage)), strike)


def freeze_worker(stage: Stage, rng: random.Random, strike: Strike) -> None:
    pid = rng.choice(_members(stage))
    os.kill(pid, signal.SIGSTOP)
    stage.struck.add(pid)
    strike.pids, strike.classes = [pid], frozenset({FailureClass.HUNG_RANK})


def kill_during_start(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """Kill a member, and then its replacement while that warms up, at any point of its warming."""
    before = stage.workers() | {w.pid for a in stage.attempts() for w in a.workers}
    _kill(stage, rng.choice(_members(stage)), strike)
    (pid, *_) = stage.until(lambda: list(stage.workers() - before), "a replacement")
    spent = rng.uniform(0.0, 2.0)
    with contextlib.suppress(psutil.NoSuchProcess):
        stage.until(lambda: psutil.Process(pid).cpu_times().user > spent, f"{spent:.1f} s of warming")
        os.kill(pid, signal.SIGKILL)
    strike.note = f"and {pid} {spent:.1f} s into its warming"


def kill_during_save(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """Rank 0, which writes, three times in four."""
    stage.until(stage.is_saving, "a save")
    members = _members(stage)
    _kill(stage, members[0] if rng.random() < 0.75 else rng.choice(members), strike)


def kill_during_evaluation(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """Just after the step before an evaluation is on record, or some hundredths of a second later."""
    every = stage.eval_steps
    stage.until(lambda: (stage.step + 1) % every == 0, "the step before an evaluation")
    time.sleep(rng.uniform(0.0, 0.1))
    _kill(stage, rng.choice(_members(stage)), strike)


def kill_during_recovery(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """The second as soon as the survivors take up the next attempt, or as soon as it stands."""
    taken_up, formed = stage.newest_log(), len(stage.attempts())
    while_restoring = rng.random() < 0.5
    _kill(stage, rng.choice(_members(stage)), strike)
    if while_restoring:
        stage.until(lambda: stage.newest_log() > taken_up, "the taking up of the next attempt")
    else:
        stage.until(lambda: len(stage.attempts()) > formed, "the next attempt")
    _kill(stage, rng.choice(_members(stage)), strike)
    strike.note = "while it restored" if while_restoring else "once it stood"


def torn_checkpoint(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """Damage the newest checkpoint just after its commit, and make somebody need it at once."""
    before = stage.committed()
    newest = stage.until(lambda: [s for s in stage.committed() if s not in before], "a commit")[-1]
    directory = stage.checkpoint(newest)
    how = rng.choice(["flip", "truncate", "no manifest", "no file"])
    members = _members(stage)
    victims = [p for p in directory.iterdir() if p.name in _listed(directory)]
    victim = rng.choice(sorted(victims))
    if how == "flip":
        data = bytearray(victim.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        victim.write_bytes(bytes(data))
    elif how == "truncate":
        os.truncate(victim, victim.stat().st_size // 2)
    else:
        victim = victim if how == "no file" else directory / "manifest.json"
        victim.unlink()
    _kill(stage, rng.choice(members), strike)
    strike.torn, strike.note = newest, f"step_{newest}/{victim.name}: {how}"


def storage_refused(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """A plain file where the checkpoints are, for two seconds of which a save is under way."""
    stage.until(stage.committed, "a commit")
    aside = stage.checkpoints.with_name("checkpoints.aside")
    stage.checkpoints.rename(aside)
    stage.checkpoints.write_bytes(b"")
    began = time.monotonic()
    try:
        stage.until(lambda: time.monotonic() - began > _REFUSED_S, "the end of the refusal")
    finally:
        if stage.checkpoints.is_dir():
            shutil.rmtree(stage.checkpoints)
        stage.checkpoints.unlink(missing_ok=True)
        aside.rename(stage.checkpoints)
    former = max(stage.committed(), default=0)
    stage.until(lambda: max(stage.committed(), default=0) > former, "a commit after the refusal")


def slow_rank(stage: Stage, rng: random.Random, strike: Strike) -> None:
    """Stopped more than half of the time for some seconds: slow, but no failure."""
    pid = rng.choice(_members(stage))
    limit = time.monotonic() + _SLOW_S
    while time.monotonic() < limit:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        os.kill(pid, signal.SIGCONT)
        time.sleep(_RUNNING_S)
    strike.note = f"rank of pid {pid}"


ACTS: dict[Kind, Callable[[Stage, random.Random, Strike], None]] = {
    Kind.KILL_WORKER: kill_worker,
    Kind.FREEZE_WORKER: freeze_worker,
    Kind.KILL_DURING_START: kill_during_start,
    Kind.KILL_DURING_SAVE: kill_during_save,
    Kind.KILL_DURING_EVALUATION: kill_during_evaluation,
    Kind.KILL_DURING_RECOVERY: kill_during_recovery,
    Kind.TORN_CHECKPOINT: torn_checkpoint,
    Kind.STORAGE_REFUSED: storage_refused,
    Kind.SLOW_RANK: slow_rank,
}


def _members(stage: Stage) -> list[int]:
    return stage.until(stage.members, "a living member")


def _kill(stage: Stage, pid: int, strike: Strike) -> None:
    os.kill(pid, signal.SIGKILL)
    stage.struck.add(pid)
    strike.pids.append(pid)


def _listed(directory) -> set[str]:
    return set(json.loads((directory / "manifest.json").read_text())["files"])
