"""What outsiders are told of a rollout."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime

from cluster.config import StrictModel
from serve_apps.rollout.outside.config import WebhookKind
from serve_apps.rollout.outside.placeholders import Names


class Moment(StrictModel):
    """A rollout at one moment.

    `sequence` counts the moments of a rollout, each with a larger one than that before; `event` is a
    sentence with both numbers, those before and after or those compared. Weights in percent, those before
    None where there was nothing before; `step` from 0.
    """

    rollout: int
    model: str
    candidate: str
    stable: str
    phase: str
    step: int
    weight: float
    sequence: int
    event: str
    phase_before: str | None = None
    weight_before: float | None = None

    @property
    def names(self) -> Names:
        """What placeholders stand for."""
        return Names(self.model, self.candidate, self.stable)


class Message(Moment):
    """The JSON body of a call; `id` is the same each time that it is sent, `sent_at` is not."""

    id: str
    kind: WebhookKind
    sent_at: AwareDatetime

    @classmethod
    def of(cls, moment: Moment, kind: WebhookKind, sent_at: datetime) -> Message:
        """The moment as it is told to a receiver of this kind."""
        name = f"{moment.rollout}-{moment.sequence}-{kind}"
        return cls(**moment.model_dump(), id=name, kind=kind, sent_at=sent_at)
