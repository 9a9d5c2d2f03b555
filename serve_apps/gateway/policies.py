"""The live traffic policies, followed from the state database off the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from cluster.state import policies
from cluster.state.database import Database
from cluster.state.tables import utc_now
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.following import Follower


@dataclass(frozen=True, slots=True)
class Applied:
    """A policy, and since when requests are routed by it: UTC without a zone."""

    policy: TrafficPolicy
    at: datetime


class PolicyCache(Follower):
    """The newest policy of each model; while the database does not answer, the last one known."""

    what = "traffic policies"

    def __init__(self, database: Database, models: Sequence[str], interval_s: float = 0.25) -> None:
        super().__init__(database, interval_s)
        self._models = tuple(models)
        self._known: dict[str, Applied] = {}

    def get(self, model: str) -> TrafficPolicy | None:
        """The policy to route by; None while none has been read."""
        known = self._known.get(model)
        return None if known is None else known.policy

    def applied(self, model: str) -> Applied | None:
        """The same, with its time."""
        return self._known.get(model)

    def _read(self, session: Session) -> None:
        found = [policies.get(session, model) for model in self._models]
        now = utc_now()
        self._known |= {
            policy.model: Applied(policy, now)
            for policy in found
            if policy is not None and policy != self.get(policy.model)
        }
