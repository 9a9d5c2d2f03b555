"""Numbers of the report, each a pure function of what was observed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.config import StrictModel
from cluster.demo.client import Answer
from cluster.errors import LinnetError
from cluster.traffic import TrafficPolicy, route

MIN_ACCURACY = 0.85
MAX_STANDARD_ERRORS = 4.0

_LABEL = re.compile(r"v(\d+)(?:-adapter)?")


class Phase(StrictModel):
    """One step of the demo and how long it took."""

    name: str
    seconds: float


class LossPoint(StrictModel):
    """One line of a run's metrics; `at` in unix seconds."""

    step: int
    loss: float
    attempt: int
    at: float


class Mark(StrictModel):
    """A moment on the time axis, in unix seconds."""

    name: str
    at: float


class TrainFigures(StrictModel):
    """What training came to; `recovered_s` runs from the last step before the kill to the first new one."""

    run: str
    steps: int
    workers: int
    kills: int
    killed_after_step: int
    steps_redone: int
    recovered_s: float
    first_loss: float
    last_loss: float


class SplitFigures(StrictModel):
    """The candidate's share among distinct keys, and how far it is from the weight in standard errors.

    `misrouted` counts keys that another version answered than `cluster.traffic.route` says.
    """

    expected: float
    observed: float
    keys: int
    standard_errors: float
    misrouted: int


class RequestFigures(StrictModel):
    """All requests whose outcome counts; `by_version` leaves out those that no version answered."""

    total: int
    failed: int
    streams: int
    by_version: dict[str, int]
    failures: dict[str, int]


def next_label(labels: Sequence[str]) -> str:
    """The first vN after all labels of the forms vN and vN-adapter."""
    numbers = [int(found[1]) for label in labels if (found := _LABEL.fullmatch(label))]
    return f"v{max(numbers, default=0) + 1}"


def policy_of(model: str, detail: Mapping[str, Any]) -> TrafficPolicy:
    """The traffic policy that a rollout command's `detail` tells of."""
    (stable, _), *others = detail["weights"].items()
    candidate, weight = others[0] if others else (None, 0.0)
    return TrafficPolicy(
        model=model, revision=detail["revision"], stable=stable, candidate=candidate, weight=weight
    )


def split(policy: TrafficPolicy, answers: Sequence[Answer]) -> SplitFigures:
    """Compare who answered with who should have; one answer a key, all of them complete."""
    expected, count = policy.weight / 100, len(answers)
    observed = sum(answer.version == policy.candidate for answer in answers) / count
    error = math.sqrt(expected * (1 - expected) / count)
    return SplitFigures(
        expected=expected,
        observed=observed,
        keys=len({answer.question.key for answer in answers}),
        standard_errors=abs(observed - expected) / error,
        misrouted=sum(answer.version != route(policy, answer.question.key) for answer in answers),
    )


def accuracy(answers: Sequence[Answer], labels: Sequence[str]) -> float:
    """The share of answers that name their label, and name it first."""
    known = sorted(set(labels))
    right = sum(
        first_label(answer.text, known) == label for answer, label in zip(answers, labels, strict=True)
    )
    return right / len(labels)


def first_label(text: str, known: Sequence[str]) -> str:
    """The first word of `text` that is a label, in lower case; empty when none is."""
    return next((word for word in re.findall(r"[a-z]+", text.lower()) if word in known), "")


def requests(answers: Sequence[Answer]) -> RequestFigures:
    """Count them."""
    failures = Counter(answer.error for answer in answers if answer.error)
    versions = Counter(answer.version for answer in answers if answer.version)
    return RequestFigures(
        total=len(answers),
        failed=failures.total(),
        streams=sum(answer.question.stream for answer in answers),
        by_version=dict(sorted(versions.items())),
        failures=dict(failures.most_common()),
    )


def rollback_seconds(answers: Sequence[Answer], *, back_to: str, commanded: float, until: float) -> float:
    """From the command to the first answer of the old version after which the new one answered nothing.

    `until` is when the next command was given. Raises LinnetError `demo.rollback` when the old version
    did not answer, or the new one still did.
    """
    asked = [a for a in answers if not a.error and not a.question.pin and commanded <= a.started < until]
    first = min((a.answered for a in asked if a.version == back_to), default=None)
    if first is None:
        raise LinnetError(f"After the rollback nothing was answered by {back_to}.", code="demo.rollback")
    late = [a for a in asked if a.started > first and a.version != back_to]
    if late:
        raise LinnetError(
            f"{len(late)} requests begun after the rollback was seen were answered by {late[0].version}.",
            code="demo.rollback",
        )
    return first - commanded


def shares(answers: Sequence[Answer], bin_s: float) -> list[tuple[float, dict[str, float]]]:
    """Of the unpinned answers: for each span of `bin_s` seconds its begin and each version's share."""
    counted: dict[int, Counter[str]] = {}
    for answer in answers:
        if answer.version and not answer.question.pin:
            counted.setdefault(int(answer.answered // bin_s), Counter())[answer.version] += 1
    return [
        (number * bin_s, {version: count / counts.total() for version, count in counts.items()})
        for number, counts in sorted(counted.items())
    ]
