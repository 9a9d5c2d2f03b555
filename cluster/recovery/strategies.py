"""The strategy of each failure class, and the sentence that tells it."""

from __future__ import annotations

from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import Decision, NodeRole, Reason, Situation, Strategy, Tolerance


def can_shrink(situation: Situation) -> bool:
    """Whether a smaller microbatch may fit where this one did not."""
    return situation.failure_class is FailureClass.OUT_OF_MEMORY and situation.microbatch_rows > 1


def go_on(situation: Situation) -> Decision:
    """The strategy of the failure's class, without regard to what failed before."""
    failure_class, step, rows = situation.failure_class, situation.step, situation.microbatch_rows
    if failure_class is FailureClass.NODE_DRAINING:
        return Decision(
            strategy=Strategy.COMMIT_THEN_MOVE,
            reason=Reason.DRAINING,
            sentence=_draining(situation),
        )
    if failure_class is FailureClass.SLOW_RANK:
        return Decision(
            strategy=Strategy.NAME_ONLY,
            reason=Reason.HARMLESS,
            sentence="It is named and stays: replacing it would cost more than it does.",
        )
    if failure_class is FailureClass.BAD_LOSS:
        return _skip(situation)
    if failure_class is FailureClass.STORAGE_REFUSED:
        return Decision(
            strategy=Strategy.RETRY_STORAGE,
            reason=Reason.TRANSIENT,
            sentence=f"Storage is tried again; until it takes a checkpoint, the commit of step "
            f"{situation.committed_step} stays the newest.",
        )
    if can_shrink(situation):
        return Decision(
            strategy=Strategy.SHRINK_MICROBATCH,
            reason=Reason.TOO_LARGE,
            sentence=f"Step {step + 1} is done in microbatches of {_count(rows // 2, 'row')} "
            f"instead of {rows}; the global batch stays.",
        )
    return _lost(situation)


def _skip(situation: Situation) -> Decision:
    return Decision(
        strategy=Strategy.SKIP_BATCH,
        reason=Reason.BAD_BATCH,
        sentence=f"The batch of step {situation.step + 1} changes no weights; training goes on after it.",
    )


def _lost(situation: Situation) -> Decision:
    """Somebody is gone, or an exchange broke."""
    if situation.live == 0 or not situation.state_survives or _takes_all(situation):
        return _restart(situation)
    if situation.live < situation.min_workers:
        return Decision(
            strategy=Strategy.WAIT_FOR_STANDBY,
            reason=Reason.TOO_FEW_WORKERS,
            sentence=f"{_workers(situation.live)} left, {situation.min_workers} needed: they keep their "
            f"state and wait for {_missing(situation)}.",
        )
    left = f"{situation.live} of {_workers(situation.slots)}"
    on = f"at step {situation.step + 1}; no step is done again."
    if situation.tolerance is Tolerance.CONTINUE:
        return Decision(
            strategy=Strategy.GO_ON_WITH_SURVIVORS, reason=Reason.TRANSIENT, sentence=f"{left} go on {on}"
        )
    hung = situation.failure_class is FailureClass.HUNG_RANK
    ended = "Its process is ended. " if hung else ""
    return Decision(
        strategy=Strategy.REPLACE_RANK if hung else Strategy.PROVE_AND_GO_ON,
        reason=Reason.TRANSIENT,
        sentence=f"{ended}{left} repeat a committed step as proof and go on {on}",
    )


def _takes_all(situation: Situation) -> bool:
    """Whether the processes went with it: the coordinator lives on the head, beside the driver."""
    lost_head = situation.failure_class is FailureClass.NODE_LOST and situation.node_role is NodeRole.HEAD
    return lost_head or situation.failure_class in (FailureClass.DRIVER_LOST, FailureClass.HEAD_LOST)


def _restart(situation: Situation) -> Decision:
    redone = max(0, situation.step - situation.committed_step)
    again = f"{_count(redone, 'step')} done again"
    back = f"from the commit of step {situation.committed_step}, {again}"
    if _takes_all(situation):
        sentence = f"`linnet train run` of the same spec goes on {back}."
    elif situation.live < situation.min_workers:
        sentence = f"{_missing(situation).capitalize()} {_take_places(situation)}; all go on {back}."
    else:
        sentence = f"{_workers(situation.live)} go on {back}."
    hung = situation.failure_class is FailureClass.HUNG_RANK
    return Decision(
        strategy=Strategy.REPLACE_RANK if hung else Strategy.RESTART_FROM_COMMIT,
        reason=Reason.TRANSIENT,
        sentence=f"Its process is ended. {sentence}" if hung else sentence,
    )


def _draining(situation: Situation) -> str:
    if situation.node_role is NodeRole.HEAD:
        return (
            "A checkpoint is committed before the head goes; "
            "`linnet train run` of the same spec goes on from it."
        )
    if not situation.may_move:
        return (
            "A checkpoint is committed; no other node has room and too few would be left, "
            "so that training goes on there until the node goes."
        )
    return "A checkpoint is committed before the node goes; then its workers move, and no step is done again."


def _workers(count: int) -> str:
    return _count(count, "worker")


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _take_places(situation: Situation) -> str:
    is_one = situation.min_workers - situation.live == 1
    return "takes the empty place" if is_one else "take the empty places"


def _missing(situation: Situation) -> str:
    missing = situation.min_workers - situation.live
    if situation.standby >= missing:
        return "a warm standby" if missing == 1 else f"{missing} warm standbys"
    return "a new worker" if missing == 1 else f"{missing} new workers"
