"""The words of a decision: what is known when a failure is noticed, what may be done, and why."""

from __future__ import annotations

from enum import StrEnum

from cluster.config import StrictModel
from cluster.recovery.classes import FailureClass


class NodeRole(StrEnum):
    """What the victim's node is to the cluster."""

    HEAD = "head"
    WORKER = "worker"


class Tolerance(StrEnum):
    """What survivors do: repeat a committed step as a proof and go on, or go on at once."""

    RESTART = "restart"
    CONTINUE = "continue"


class Strategy(StrEnum):
    """What is done."""

    WAIT_FOR_STANDBY = "wait_for_standby"
    RESTART_FROM_COMMIT = "restart_from_commit"
    GO_ON_WITH_SURVIVORS = "go_on_with_survivors"
    PROVE_AND_GO_ON = "prove_and_go_on"
    SHRINK_MICROBATCH = "shrink_microbatch"
    COMMIT_THEN_MOVE = "commit_then_move"
    REPLACE_RANK = "replace_rank"
    SKIP_BATCH = "skip_batch"
    RETRY_STORAGE = "retry_storage"
    NAME_ONLY = "name_only"
    STOP = "stop"


class Reason(StrEnum):
    """Why it is done."""

    TRANSIENT = "transient"
    TOO_FEW_WORKERS = "too_few_workers"
    TOO_LARGE = "too_large"
    DRAINING = "draining"
    BAD_BATCH = "bad_batch"
    HARMLESS = "harmless"
    AS_SPECIFIED = "as_specified"
    NOT_RETRYABLE = "not_retryable"
    DETERMINISTIC = "deterministic"
    BUDGET_SPENT = "budget_spent"


class PastFailure(StrictModel):
    """An earlier failure of the same run: the last step trained and committed before it, in unix seconds.

    `victim_slots` are the parts of the next step that were being computed where it happened, if any is known.
    """

    failure_class: FailureClass
    step: int
    committed_step: int
    at: float
    victim_slots: tuple[int, ...] = ()


class Situation(StrictModel):
    """A failure and what surrounds it.

    `step` is the last step that was trained, `live` counts the workers that are left, `standby` the warm
    ones that wait, `slots` those of full strength. `microbatch_rows` is the present size of a microbatch.
    `max_failures` is -1 for any number. `may_skip`: the spec lets a bad batch be skipped;
    `state_survives`: each worker has all of the state, and not a part that is lost with it; `is_final`:
    the error itself says that a repetition would meet it again; `may_move`: the workers of a draining
    node have somewhere to go, or the others are enough. `victim_slots` are the parts of the step that the
    victim was computing. `history` is in order of time.
    """

    failure_class: FailureClass
    node_role: NodeRole = NodeRole.WORKER
    tolerance: Tolerance
    step: int
    committed_step: int
    live: int
    min_workers: int
    slots: int
    standby: int = 0
    microbatch_rows: int
    max_failures: int
    may_skip: bool = False
    state_survives: bool = True
    is_final: bool = False
    may_move: bool = True
    victim_slots: tuple[int, ...] = ()
    history: tuple[PastFailure, ...] = ()
    now: float


class Decision(StrictModel):
    """What is done, after how many seconds, and why."""

    strategy: Strategy
    wait_s: float = 0.0
    reason: Reason
    sentence: str
