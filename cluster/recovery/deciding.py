"""What is done about a failure: a pure function of what is known when it is noticed."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import Decision, PastFailure, Reason, Situation, Strategy
from cluster.recovery.strategies import can_shrink, go_on

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_REPEATS = 3

# Nothing is lost by these, or a person has already said that the run shall go on.
FREE = frozenset(
    {
        FailureClass.BAD_LOSS,
        FailureClass.SLOW_RANK,
        FailureClass.NODE_DRAINING,
        FailureClass.DRIVER_LOST,
        FailureClass.HEAD_LOST,
    }
)
_MAY_BE_THE_PROGRAM = frozenset(
    {FailureClass.WORKER_CRASH, FailureClass.OUT_OF_MEMORY, FailureClass.PROGRAM_ERROR}
)


def decide(situation: Situation) -> Decision:
    """Decide about a failure of any class. Pure: the same situation gets the same decision.

    Failures since the last progress, a commit beyond the step of the failure before it, count against
    `max_failures` and double the wait.
    """
    streak = without_progress(situation)
    stopped = _stop(situation, streak)
    if stopped is not None:
        return stopped
    decision = go_on(situation)
    if decision.reason in (Reason.TRANSIENT, Reason.TOO_FEW_WORKERS) and situation.failure_class not in FREE:
        return decision.model_copy(update={"wait_s": backoff_s(len(streak))})
    return decision


def without_progress(situation: Situation) -> tuple[PastFailure, ...]:
    """The earlier failures that count, back to the last progress, in order of time."""
    streak: list[PastFailure] = []
    committed = situation.committed_step
    for past in reversed(situation.history):
        if past.failure_class in FREE:
            continue
        if committed > past.step:
            break
        streak.append(past)
        committed = past.committed_step
    return tuple(reversed(streak))


def backoff_s(failures_before: int) -> float:
    """Seconds to wait: 0, 1, 2, 4 ... 60."""
    if failures_before == 0:
        return 0.0
    return min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(failures_before - 1, 16))


def _stop(situation: Situation, streak: Sequence[PastFailure]) -> Decision | None:
    failure_class, step = situation.failure_class, situation.step
    if failure_class is FailureClass.BAD_LOSS and not situation.may_skip:
        return _stopped(
            Reason.AS_SPECIFIED, f"Step {step + 1} has a bad loss, and the spec says to stop at one"
        )
    if situation.is_final:
        return _stopped(
            Reason.NOT_RETRYABLE, f"{failure_class} after step {step}: trying again would meet it again"
        )
    if failure_class in FREE:
        return None
    if _is_deterministic(situation, streak):
        return _stopped(
            Reason.DETERMINISTIC,
            f"{failure_class} {_REPEATS} times in a row in step {step + 1}{_ranks(situation, streak)}: "
            "trying again would meet it again",
        )
    if 0 <= situation.max_failures <= len(streak):
        return _stopped(Reason.BUDGET_SPENT, _spent(situation, streak))
    return None


def _is_deterministic(situation: Situation, streak: Sequence[PastFailure]) -> bool:
    """Whether the same work has failed alike so often that it will again."""
    if situation.failure_class not in _MAY_BE_THE_PROGRAM or can_shrink(situation):
        return False
    last = streak[-(_REPEATS - 1) :]
    this = (situation.failure_class, situation.step, situation.victim_rank)
    same = [past for past in last if (past.failure_class, past.step, past.victim_rank) == this]
    were_at_work = situation.at_work and all(past.at_work for past in same)
    return len(same) == _REPEATS - 1 and were_at_work


def _ranks(situation: Situation, streak: Sequence[PastFailure]) -> str:
    last = [*(past.victim_rank for past in streak[-(_REPEATS - 1) :]), situation.victim_rank]
    known = sorted({rank for rank in last if rank is not None})
    if not known:
        return ""
    return f", rank {known[0]} each time" if len(known) == 1 else f", ranks {', '.join(map(str, known))}"


def _spent(situation: Situation, streak: Sequence[PastFailure]) -> str:
    count = len(streak) + 1
    if not streak:
        return f"{situation.failure_class} after step {situation.step}, and `failures.max_failures` is 0"
    spent = situation.now - streak[0].at
    return (
        f"{count} failures in {spent:.0f} s without a commit between them "
        f"(the last is of step {situation.committed_step}); "
        f"`failures.max_failures` is {situation.max_failures}"
    )


def _stopped(reason: Reason, sentence: str) -> Decision:
    return Decision(strategy=Strategy.STOP, reason=reason, sentence=f"{sentence}.")
