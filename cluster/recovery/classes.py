"""Failure classes: what the signs of a failure say went wrong."""

from __future__ import annotations

import re
from enum import StrEnum

from cluster.config import StrictModel


class Signal(StrEnum):
    """How a failure was noticed."""

    PROCESS_EXIT = "process_exit"
    COLLECTIVE_ERROR = "collective_error"
    NO_HEARTBEAT = "no_heartbeat"
    NO_PROGRESS = "no_progress"
    SLOW_PROGRESS = "slow_progress"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_GONE = "node_gone"
    NODE_DRAINING = "node_draining"
    NOT_FINITE = "not_finite"
    SPIKE = "spike"
    STORAGE_ERROR = "storage_error"
    DRIVER_GONE = "driver_gone"
    HEAD_GONE = "head_gone"
    RAISED = "raised"


class FailureClass(StrEnum):
    """What went wrong; every class has a strategy of its own."""

    WORKER_CRASH = "worker_crash"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_LOST = "node_lost"
    NODE_DRAINING = "node_draining"
    NETWORK_STALL = "network_stall"
    HUNG_RANK = "hung_rank"
    SLOW_RANK = "slow_rank"
    BAD_LOSS = "bad_loss"
    STORAGE_REFUSED = "storage_refused"
    DRIVER_LOST = "driver_lost"
    HEAD_LOST = "head_lost"
    PROGRAM_ERROR = "program_error"


class Evidence(StrictModel):
    """What is known of a failure when it is noticed.

    `detail` is Ray's death cause or the exception with its type. `node_alive` is what Ray's node table
    says of the victim's node and `node_answers` whether anything else on it was heard since the victim
    fell silent; None where nobody knows. Ages are seconds since the victim's last heartbeat and since it
    last got something done. `peers_waiting` counts the workers that wait in an exchange for the victim.
    """

    signal: Signal
    detail: str = ""
    node_alive: bool | None = None
    node_answers: bool | None = None
    heartbeat_age_s: float | None = None
    progress_age_s: float | None = None
    peers_waiting: int = 0


_PLAIN = {
    Signal.SLOW_PROGRESS: FailureClass.SLOW_RANK,
    Signal.OUT_OF_MEMORY: FailureClass.OUT_OF_MEMORY,
    Signal.NODE_GONE: FailureClass.NODE_LOST,
    Signal.NODE_DRAINING: FailureClass.NODE_DRAINING,
    Signal.NOT_FINITE: FailureClass.BAD_LOSS,
    Signal.SPIKE: FailureClass.BAD_LOSS,
    Signal.STORAGE_ERROR: FailureClass.STORAGE_REFUSED,
    Signal.DRIVER_GONE: FailureClass.DRIVER_LOST,
    Signal.HEAD_GONE: FailureClass.HEAD_LOST,
}
_DEFAULTS = {
    Signal.PROCESS_EXIT: FailureClass.WORKER_CRASH,
    Signal.COLLECTIVE_ERROR: FailureClass.NETWORK_STALL,
    Signal.RAISED: FailureClass.PROGRAM_ERROR,
}
# Ray lists these guesses after every process that ended without a word, the OOM killer among them.
_GUESSES = re.compile(r"(some common causes include|there are some potential root causes).*", re.I | re.S)
_SAYS = [
    (re.compile(r"owner has died", re.I), FailureClass.DRIVER_LOST),
    (re.compile(r"node has died|node died|node was preempted|preemption|dead or unavailable", re.I),
     FailureClass.NODE_LOST),
    (re.compile(
        r"out of memory|outofmemory|out_of_memory|low on memory|cannot allocate memory"
        r"|can't allocate memory|not enough memory|\bMemoryError\b|bad_alloc", re.I),
     FailureClass.OUT_OF_MEMORY),
    (re.compile(
        r"no space left|disk quota exceeded|read-only file system|\bStorageError\b|\bstorage\.\w+", re.I),
     FailureClass.STORAGE_REFUSED),
    (re.compile(r"\bgloo\b|\bnccl|ProcessGroup|connection (closed|reset|refused|timed out)"
                r"|network is unreachable|no route to host|broken pipe", re.I),
     FailureClass.NETWORK_STALL),
]  # fmt: skip


def classify(evidence: Evidence) -> FailureClass:
    """Name the failure. Pure, and total: every signal has a class whatever the text says."""
    if evidence.signal in _PLAIN:
        return _PLAIN[evidence.signal]
    if evidence.node_alive is False:
        return FailureClass.NODE_LOST
    if evidence.signal in (Signal.NO_HEARTBEAT, Signal.NO_PROGRESS):
        return _silence(evidence)
    found = _read(evidence.detail)
    if evidence.signal is Signal.PROCESS_EXIT and found is FailureClass.NETWORK_STALL:
        # Ray says that the connection to a process ended, however it ended.
        found = None
    return found or _DEFAULTS[evidence.signal]


def _silence(evidence: Evidence) -> FailureClass:
    """A process that stands still is hung; one whose whole node fell silent with it is cut off."""
    cut_off = evidence.signal is Signal.NO_HEARTBEAT and evidence.node_answers is False
    return FailureClass.NETWORK_STALL if cut_off else FailureClass.HUNG_RANK


def _read(detail: str) -> FailureClass | None:
    text = _GUESSES.sub("", detail)
    return next((failure_class for pattern, failure_class in _SAYS if pattern.search(text)), None)
