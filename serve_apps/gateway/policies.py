"""The live traffic policies, followed from the state database off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import LinnetError
from cluster.state import policies
from cluster.state.database import Database
from cluster.traffic import TrafficPolicy

_log = logging.getLogger(__name__)


class PolicyCache:
    """The newest policy of each model; while the database does not answer, the last one known."""

    def __init__(self, database: Database, models: Sequence[str], interval_s: float = 0.25) -> None:
        self._database = database
        self._models = tuple(models)
        self._interval_s = interval_s
        self._known: dict[str, TrafficPolicy] = {}
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def get(self, model: str) -> TrafficPolicy | None:
        """The policy to route by; None while none has been read."""
        return self._known.get(model)

    async def start(self) -> None:
        """Begin to follow the database in the running event loop; a second call changes nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="linnet-policies")

    async def stop(self) -> None:
        """Follow no longer; what is known stays readable."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self) -> None:
        while True:
            await asyncio.to_thread(self._refresh)
            await asyncio.sleep(self._interval_s)

    def _refresh(self) -> None:
        try:
            with self._database.snapshot() as session:
                found = [policies.get(session, model) for model in self._models]
        # ValueError: a row that no longer makes a policy is as good as no answer.
        except (LinnetError, SQLAlchemyError, OSError, ValueError) as error:
            if not self._failing:
                _log.warning("the traffic policies are stale: %s", error)
            self._failing = True
            return
        self._failing = False
        self._known |= {policy.model: policy for policy in found if policy is not None}
