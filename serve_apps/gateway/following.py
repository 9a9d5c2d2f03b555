"""Following the state database from an event loop without holding the loop up."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from cluster.errors import LinnetError
from cluster.state.database import Database

_log = logging.getLogger(__name__)


class Beat(ABC):
    """Does something with the database again and again, in a thread; an error is logged once."""

    what: str
    """For the log: `the … are stale`."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    async def start(self) -> None:
        """Begin in the running event loop; a second call changes nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=f"linnet-{self.what}")

    async def stop(self) -> None:
        """Follow no longer; what is known stays readable."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    @abstractmethod
    def _once(self) -> None:
        """One time of it; called in a thread."""

    async def _follow(self) -> None:
        while True:
            await asyncio.to_thread(self._refresh)
            await asyncio.sleep(self._interval_s)

    def _refresh(self) -> None:
        try:
            self._once()
        # ValueError: a row that no longer fits its model is as good as no answer.
        except (LinnetError, SQLAlchemyError, OSError, ValueError) as error:
            if not self._failing:
                _log.warning("the %s are stale: %s", self.what, error)
            self._failing = True
            return
        self._failing = False


class Follower(Beat):
    """Reads a snapshot each time; while the database does not answer, what is known stays."""

    def __init__(self, database: Database, interval_s: float) -> None:
        super().__init__(interval_s)
        self._database = database

    def _once(self) -> None:
        with self._database.snapshot() as session:
            self._read(session)

    @abstractmethod
    def _read(self, session: Session) -> None:
        """Take over what the database holds; called in a thread."""
