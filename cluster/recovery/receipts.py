"""The receipt of one failure, and the journal that keeps them: one line each, in order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import ValidationError

from cluster.config import StrictModel
from cluster.errors import NotFoundError
from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import PastFailure, Reason, Strategy
from cluster.storage import Storage


class Victim(StrictModel):
    """The worker that failed; `node` is its address."""

    rank: int
    pid: int
    node: str


class Receipt(StrictModel):
    """What one failure was, what was done, and what it cost.

    `at` is the last sign of life in unix seconds. From there: `detect_s` until the failure was known,
    `isolate_s` until nobody waited for the victim any more, `recover_s` until the state was restored,
    `verify_s` until a step was new again; `total_s` is all of it. `waited_s` is the part of `recover_s`
    that went by until there were enough processes, `backoff_s` the pause made on purpose. `detail` tells
    what happened, `code` is that of the error where it is one of ours, `decided` what was decided.
    `attempt_after` is None when nothing came after, or not yet. `step` is the furthest step, `reached`
    the one that the run was at, which after a restore is behind it; `place` is the victim's rank in its
    formation, `slots` are its parts of a step (none are known of earlier releases), and `at_work` tells
    whether it was computing them. `joins` is the number of the failure whose further victim this is: it
    counts as one with that. `samples` are the ids of the step that is to
    blame, for a bad loss and for what stopped the run. `goodput` is the share of the run's wall time so
    far that went into steps that count, 0 until the run is past the failure.
    """

    number: int
    run: str
    failure_class: FailureClass
    detail: str
    code: str = ""
    strategy: Strategy
    reason: Reason
    decided: str = ""
    attempt_before: int
    attempt_after: int | None
    step: int
    committed_step: int
    reached: int = 0
    place: int | None = None
    slots: tuple[int, ...] = ()
    at_work: bool = True
    joins: int | None = None
    victim: Victim | None = None
    at: float
    detect_s: float
    isolate_s: float = 0.0
    recover_s: float = 0.0
    verify_s: float = 0.0
    total_s: float
    waited_s: float = 0.0
    backoff_s: float = 0.0
    steps_redone: int = 0
    samples_redone: int = 0
    samples: tuple[str, ...] = ()
    goodput: float
    certificate: Literal["equal", "unequal", "nothing"] = "nothing"
    stack: str = ""
    advice: str = ""


def append(storage: Storage, path: str, receipt: Receipt) -> None:
    """Add a receipt to the journal, or what has become of one with the same number. Raises StorageError."""
    storage.append_line(path, receipt.model_dump_json().encode())


def read(storage: Storage, path: str) -> list[Receipt]:
    """All receipts of a journal by number, each as it was written last.

    A torn line and one that a newer release wrote are left out.
    """
    try:
        lines = storage.read_bytes(path).splitlines()
    except NotFoundError:
        return []
    parsed = [receipt for line in lines if (receipt := _parse(line)) is not None]
    return [receipt for _, receipt in sorted({receipt.number: receipt for receipt in parsed}.items())]


def history(kept: Sequence[Receipt]) -> list[PastFailure]:
    """The failures that decisions look back at, over all launches of the run.

    What stopped the run ends the history: a person who starts it again after that has looked at it, and
    gives it a new budget. An interrupted launch, or a lost driver, ends nothing.
    """
    stops = [place for place, receipt in enumerate(kept) if receipt.strategy is Strategy.STOP]
    since = kept[stops[-1] + 1 if stops else 0 :]
    return [_past(receipt, since) for receipt in since if receipt.joins is None]


def _past(receipt: Receipt, all_of_them: Sequence[Receipt]) -> PastFailure:
    """A failure as one, however many victims it had."""
    victims = [one for one in all_of_them if receipt.number in (one.number, one.joins) and one.at_work]
    return PastFailure(
        failure_class=receipt.failure_class,
        step=receipt.reached,
        committed_step=receipt.committed_step,
        at=receipt.at + receipt.detect_s,
        victim_slots=tuple(sorted({slot for victim in victims for slot in victim.slots})),
    )


def goodput(steps: Iterable[tuple[int, float]], started_at: float, now: float) -> float:
    """Share of the wall time since `started_at` (unix seconds) that went into steps that count, 0 to 1.

    `steps` are (step, seconds) in order of writing; of a step done twice only the later counts.
    """
    wall = now - started_at
    if wall <= 0:
        return 0.0
    return min(1.0, sum(dict(steps).values()) / wall)


def _parse(line: bytes) -> Receipt | None:
    try:
        return Receipt.model_validate(json.loads(line))
    except (ValueError, ValidationError):
        return None
