"""The API keys, followed from the state database off the event loop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC

from sqlalchemy.orm import Session

from cluster.keys import ApiKey, digest
from cluster.state import keys
from cluster.state.database import Database
from serve_apps.gateway.following import Follower
from serve_apps.gateway.limits import Meter


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A key with what it has used here; `expires` is in Unix seconds."""

    id: int
    models: tuple[str, ...]
    admin: bool
    expires: float | None
    meter: Meter


class KeyCache(Follower):
    """Every key that was not revoked; while the database does not answer, those last known."""

    what = "API keys"

    def __init__(self, database: Database, interval_s: float = 0.25) -> None:
        super().__init__(database, interval_s)
        self._mark: tuple[int, ...] = ()
        self._known: dict[bytes, LiveKey] = {}

    def ready(self) -> bool:
        """Whether the keys have been read once."""
        return bool(self._mark)

    def get(self, secret: bytes, now: float) -> LiveKey | None:
        """The key with this secret, unless it has expired at `now` (Unix seconds)."""
        # Time tells nothing: what is compared are digests, and nobody can choose the digest of a guess.
        key = self._known.get(digest(secret))
        return None if key is None or (key.expires is not None and key.expires <= now) else key

    def _read(self, session: Session) -> None:
        mark = keys.mark(session)
        if mark == self._mark:
            return
        # A key that stays keeps its meter: a change of another one must not fill its buckets.
        self._known = {key.digest: self._known.get(key.digest) or _live(key) for key in keys.valid(session)}
        self._mark = mark


def _live(key: ApiKey) -> LiveKey:
    grant = key.grant
    expires = grant.expires_at.replace(tzinfo=UTC).timestamp() if grant.expires_at else None
    return LiveKey(key.id, grant.models, grant.admin, expires, Meter(grant.limits))
