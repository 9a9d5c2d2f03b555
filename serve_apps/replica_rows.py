"""What a replica says of itself in the state database, one row for each version that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import LinnetError
from cluster.refs import VersionRef
from cluster.state import replicas
from cluster.state.database import Database
from cluster.state.replicas import ReplicaStatus, Word
from cluster.state.tables import utc_now

NOT_WRITTEN = (LinnetError, SQLAlchemyError)
"""What a database raises that does not answer, or takes no writes."""


class ReplicaRows:
    """Written in a thread; `own` is the replica's own version, the base of all others."""

    def __init__(self, database: Database, replica: str, own: VersionRef) -> None:
        self._database = database
        self.replica = replica
        self._own = own
        self._words: dict[str, Word] = {}

    async def report(self, version: str, status: ReplicaStatus, detail: dict[str, Any] | None = None) -> None:
        """Write or renew the row of a version; what cannot be written is remembered for the next renewal."""
        before = self._words.get(version) or Word(utc_now())
        self._words[version] = before if detail is None else replace(before, detail=detail)
        await asyncio.to_thread(self._report, version, status, detail, before.started_at)

    async def renew(self, statuses: Mapping[str, ReplicaStatus], detail: Mapping[str, Any]) -> None:
        """Renew the rows of all these versions in one transaction, with `detail` laid over theirs."""
        await asyncio.to_thread(self._renew, statuses, detail, dict(self._words))

    async def forget(self, version: str) -> None:
        """The replica serves this adapter no longer."""
        self._words.pop(version, None)
        await asyncio.to_thread(self._forget, version)

    async def forget_all(self) -> None:
        """The replica stops in good order; its adapters stay listed for their lease."""
        await asyncio.to_thread(self._forget_all)

    def _report(
        self, version: str, status: ReplicaStatus, detail: dict[str, Any] | None, started_at: datetime
    ) -> None:
        own = self._own
        with self._database.transaction() as session:
            replicas.report(
                session,
                replica=self.replica,
                model=own.model,
                version=version,
                base=own.version if version != own.version else None,
                status=status,
                detail=detail,
                started_at=started_at,
            )

    def _renew(
        self,
        statuses: Mapping[str, ReplicaStatus],
        detail: Mapping[str, Any],
        words: Mapping[str, Word],
    ) -> None:
        own = self._own
        with self._database.transaction() as session:
            replicas.renew(
                session,
                replica=self.replica,
                model=own.model,
                own=own.version,
                statuses=statuses,
                detail=detail,
                words=words,
            )

    def _forget(self, version: str) -> None:
        with self._database.transaction() as session:
            replicas.forget_version(session, self.replica, version)

    def _forget_all(self) -> None:
        with self._database.transaction() as session:
            replicas.forget(session, self.replica)
