"""Which receivers have not been told yet of what was decided: by the decisions and deliveries stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp
from pydantic import ValidationError
from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from cluster.state.tables import DecisionRow, DeliveryRow, RolloutRow
from serve_apps.rollout import records
from serve_apps.rollout.outside import slack, webhooks
from serve_apps.rollout.outside.config import Slack, Webhook, WebhookKind
from serve_apps.rollout.outside.deliveries import Receiver
from serve_apps.rollout.outside.slack import SlackClient
from serve_apps.rollout.outside.webhooks import WebhookClient
from serve_apps.rollout.states import ACTIVE, Reason

RECENT = timedelta(days=7)
"""For so long after its last change a rollout that is over is looked at, so that the work stays bounded."""

ReceiverConfig = Webhook | Slack

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Untold:
    """A receiver that has not been told all of a rollout."""

    model: str
    rollout: int
    receiver: ReceiverConfig

    @property
    def key(self) -> tuple[int, str]:
        """What its telling is known by."""
        return self.rollout, name_of(self.receiver)


def untold(
    session: Session, now: datetime, known: Mapping[int, tuple[ReceiverConfig, ...]]
) -> tuple[list[Untold], dict[int, tuple[ReceiverConfig, ...]]]:
    """What is to be told, oldest rollout first, and the receivers of each rollout that was looked at.

    `known` are those of the last time, which are not read again. Rollouts count that are active, or were
    changed within `RECENT`.
    """
    looked_at = or_(
        RolloutRow.phase.in_([phase.value for phase in ACTIVE]), RolloutRow.updated_at >= now - RECENT
    )
    query = (
        select(RolloutRow.id, RolloutRow.model, RolloutRow.reason, func.max(DecisionRow.seq))
        .join(DecisionRow, DecisionRow.rollout_id == RolloutRow.id)
        .where(looked_at, RolloutRow.spec_sha256.is_not(None))
        .group_by(RolloutRow.id, RolloutRow.model, RolloutRow.reason)
        .order_by(RolloutRow.id)
    )
    rows = session.execute(query).all()
    receivers = {id_: known[id_] if id_ in known else receivers_of(session, id_) for id_, *_ in rows}
    settled = _settled(session, [id_ for id_, found in receivers.items() if found])
    return [
        Untold(model, id_, receiver)
        for id_, model, reason, decided in rows
        for receiver in receivers[id_]
        if settled.get((id_, name_of(receiver)), 0) < last_moment(decided, reason)
    ], receivers


def last_moment(decided: int, reason: str) -> int:
    """The sequence of a rollout's last moment: that another took its place was decided of the other one."""
    return decided + (reason == Reason.SUPERSEDED.value)


def receivers_of(session: Session, rollout: int) -> tuple[ReceiverConfig, ...]:
    """Who is told of a rollout; nobody where its policy cannot be read, which must not keep others untold."""
    try:
        spec = records.spec_of(session.get_one(RolloutRow, rollout))
    except ValidationError:
        _log.exception("the policy of rollout %d cannot be read", rollout)
        return ()
    if spec is None:
        return ()
    hooks = [hook for hook in spec.webhooks if hook.kind is WebhookKind.EVENT]
    return (*hooks, *([spec.slack] if spec.slack is not None else []))


def name_of(receiver: ReceiverConfig) -> str:
    """What deliveries to it are counted under."""
    return slack.name_of(receiver) if isinstance(receiver, Slack) else webhooks.name_of(receiver)


def who(receiver: ReceiverConfig) -> str:
    """For people."""
    return "Slack" if isinstance(receiver, Slack) else receiver.url


def client(receiver: ReceiverConfig, session: aiohttp.ClientSession, environ: Mapping[str, str]) -> Receiver:
    """Who tells it. Raises ConfigError for a secret that is not there."""
    if isinstance(receiver, Slack):
        return SlackClient(receiver, session, environ)
    return WebhookClient(receiver, session, environ)


def _settled(session: Session, rollouts: list[int]) -> dict[tuple[int, str], int]:
    if not rollouts:
        return {}
    query = select(DeliveryRow.rollout_id, DeliveryRow.receiver, DeliveryRow.settled)
    found = session.execute(query.where(DeliveryRow.rollout_id >= rollouts[0]))
    return {(rollout, receiver): settled for rollout, receiver, settled in found}
