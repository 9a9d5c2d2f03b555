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
    guilty = _guilty_slots(situation, streak)
    if guilty:
        parts = f"{'slot' if len(guilty) == 1 else 'slots'} {', '.join(map(str, guilty))}"
        return _stopped(
            Reason.DETERMINISTIC,
            f"{failure_class} {_REPEATS} times in a row in step {step + 1}, {parts} each time: "
            "trying again would meet it again",
        )
    if 0 <= situation.max_failures <= len(streak):
        return _stopped(Reason.BUDGET_SPENT, _spent(situation, streak))
    return None


def _guilty_slots(situation: Situation, streak: Sequence[PastFailure]) -> list[int]:
    """The parts of one step that were in hand each time it failed alike, so often that they will fail again.

    Ranks say nothing: a slot changes hands whenever a group shrinks or grows.
    """
    if situation.failure_class not in _MAY_BE_THE_PROGRAM or can_shrink(situation):
        return []
    this = (situation.failure_class, situation.step)
    last = streak[-(_REPEATS - 1) :]
    if [(past.failure_class, past.step) for past in last] != [this] * (_REPEATS - 1):
        return []
    return sorted(set(situation.victim_slots).intersection(*(past.victim_slots for past in last)))


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
