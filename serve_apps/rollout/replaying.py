"""What another policy would have done with the answers that a rollout has had, beside what happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from cluster.config import StrictModel
from cluster.state.tables import LookRow, RolloutRow
from serve_apps.rollout.conclusion import Action
from serve_apps.rollout.look import Outcome
from serve_apps.rollout.looks import LookInputs
from serve_apps.rollout.metrics import METRICS, Kind
from serve_apps.rollout.questions import is_tested
from serve_apps.rollout.refolding import replay
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import percent


class Turn(StrictModel):
    """A look that did something: `answers` of the candidate had come by then, `seconds` had passed.

    `step` is the number of the step that it was at, 0 before the first.
    """

    look: int
    seconds: float
    answers: int
    step: int
    action: Action
    gate: str | None
    why: str


class Course(StrictModel):
    """The looks that did something; `over` where one of them ended it.

    Else `stands` says where it was at the last look, or that a person ended it, and `waits_for` for what.
    """

    turns: tuple[Turn, ...]
    over: bool
    stands: str = ""
    waits_for: str = ""


class Comparison(StrictModel):
    """`sentence` says what would have been otherwise; `notes` what the comparison cannot know."""

    rollout: int
    model: str
    candidate: str
    looks: int
    happened: Course
    other: Course
    sentence: str
    notes: tuple[str, ...]


def compare(row: RolloutRow, rows: Sequence[LookRow], was: RolloutSpec, other: RolloutSpec) -> Comparison:
    """Replay `rows`, the looks of a rollout by the policy `was`, by another."""
    happened = _course(_stored(rows), was)
    # Who was counted cannot be changed afterwards.
    comparable = other.model_copy(update={"baseline": was.baseline})
    replayed = ((one.inputs, one.outcome) for one in replay(comparable, rows))
    would = _course(replayed, other)
    if not happened.over and row.phase in ("promoted", "rolled_back"):
        ended = f"{row.phase} by a person ({row.reason})"
        happened = happened.model_copy(update={"stands": ended, "waits_for": ""})
    return Comparison(
        rollout=row.id,
        model=row.model,
        candidate=row.candidate,
        looks=len(rows),
        happened=happened,
        other=would,
        sentence=_sentence(happened, would),
        notes=tuple(_notes(was, other)),
    )


def _stored(rows: Iterable[LookRow]) -> Iterator[tuple[LookInputs, Outcome]]:
    for row in rows:
        yield LookInputs.model_validate(row.inputs), Outcome.model_validate(row.outcome)


def _course(looks: Iterable[tuple[LookInputs, Outcome]], spec: RolloutSpec) -> Course:
    turns: list[Turn] = []
    answers, began, why, step = 0, None, "nobody looked", -1
    for number, (inputs, outcome) in enumerate(looks):
        began = began or inputs.at
        answers += sum(one.candidate.counts.get("requests", 0) for one in inputs.counted)
        conclusion, step = outcome.conclusion, inputs.signals.step
        why = conclusion.why
        if conclusion.action is Action.HOLD:
            continue
        turns.append(
            Turn(
                look=number,
                seconds=_seconds(began, inputs.at),
                answers=answers,
                step=step + 1,
                action=conclusion.action,
                gate=conclusion.gate,
                why=why,
            )
        )
    if turns and turns[-1].action in (Action.PROMOTE, Action.ROLL_BACK, Action.PAUSE):
        return Course(turns=tuple(turns), over=True)
    return Course(turns=tuple(turns), over=False, stands=f"at {_at(spec, step)}", waits_for=why)


def _at(spec: RolloutSpec, step: int) -> str:
    if step < 0:
        return "0%"
    weight = spec.steps[step].weight
    return f"step {step + 1}" + ("" if weight is None else f" ({percent(weight)})")


def _seconds(begin: datetime, end: datetime) -> float:
    return (end - begin).total_seconds()


def _sentence(happened: Course, would: Course) -> str:
    if not would.over:
        return (
            f"The other policy would not have ended it with these answers: {would.stands} it would wait for "
            f"{would.waits_for}."
        )
    end = would.turns[-1]
    does = {
        Action.PROMOTE: "have promoted the candidate",
        Action.ROLL_BACK: "have taken the candidate back",
        Action.PAUSE: "have paused",
    }[end.action]
    begin = f"The other policy would {does} at look {end.look}, after {end.answers:,} of its answers"
    if not happened.over:
        return f"{begin}, where it was {happened.stands}: {end.why}."
    then = happened.turns[-1]
    if then.action is not end.action:
        was = f"{_DID[then.action]} at look {then.look}, after {then.answers:,}"
        return f"{begin}, where it was {was}: {end.why}."
    earlier, seconds = then.answers - end.answers, then.seconds - end.seconds
    if then.look == end.look:
        return f"{begin}, as this one did."
    way = "earlier" if then.look > end.look else "later"
    return f"{begin}: {abs(earlier):,} answers and {abs(seconds):.0f} s {way}, {end.why}."


_DID = {
    Action.PROMOTE: "promoted",
    Action.ROLL_BACK: "taken back",
    Action.PAUSE: "paused",
}


def _notes(was: RolloutSpec, other: RolloutSpec) -> Iterator[str]:
    yield (
        "How many answers came at each look is what the weights of then gave; once the two policies are at "
        "different steps, the other would have had more or fewer."
    )
    known = {gate.name for gate in was.gates}
    for gate in other.gates:
        outside = not is_tested(gate) or gate.data is not None
        is_of_replicas = gate.metric is not None and METRICS[gate.metric].kind is Kind.REPLICA
        if outside and not is_of_replicas and gate.name not in known:
            yield f"{gate.name} was not asked then, so it is inconclusive throughout."
    if other.texts != was.texts:
        yield "Texts were looked at by the checks of then."
    if other.baseline != was.baseline:
        yield f"The candidate is compared by `baseline: {was.baseline}`, as it was counted then."
    if other.match != was.match:
        yield "Requests were chosen by the `match` of then."
