"""Waking a version that has no replica: a call by Serve's own handle, which Serve scales by.

A call that finds no replica waits at its handle; the handle tells the controller at once, and the
autoscaling policy sees it in `total_queued_requests`. So the wake needs no message of our own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from serve_apps.version_args import deployment_name

_PAUSE_S = 1.0

_log = logging.getLogger(__name__)

Call = Callable[[str, str], Awaitable[Any]]
"""Calls `wake` of a version; comes back once a replica has answered."""


class Waker:
    """One call at a time for each version. Lives in one event loop."""

    def __init__(self, call: Call, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}

    def __call__(self, model: str, version: str) -> None:
        """Wake it, unless that is under way."""
        task = self._tasks.get((model, version))
        if task is None or task.done():
            self._tasks[model, version] = asyncio.create_task(self._wake(model, version))

    async def stop(self) -> None:
        """Call no longer."""
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _wake(self, model: str, version: str) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._call(model, version)
        except Exception as error:  # whatever Serve raises: the requests that wait have their own limits
            _log.warning("%s:%s was called and did not wake: %r", model, version, error)
        await asyncio.sleep(_PAUSE_S)


def by_handle(application: Callable[[str, str], str | None]) -> Call:
    """Calls by Serve's handles; `application` names the one of a version."""

    async def call(model: str, version: str) -> None:
        from ray import serve

        name, app = deployment_name(model, version), application(model, version)
        handle = await asyncio.to_thread(serve.get_deployment_handle, name, app)
        await handle.wake.remote()

    return call
