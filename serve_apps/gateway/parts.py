"""What all exchanges of a gateway share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve_apps.access_log.log import AccessLog
from serve_apps.gateway.access import Access
from serve_apps.gateway.admission import Admission
from serve_apps.gateway.asgi import RawHeaders
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.following import Beat
from serve_apps.gateway.judged import JudgedTraffic
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.tasks import TaskTable
from serve_apps.gateway.trace import Tracer
from serve_apps.gateway.upstream import Upstream
from serve_apps.losses.watch import LossWatch


@dataclass(frozen=True, slots=True)
class Parts:
    """Made once, by `build_app`."""

    config: GatewayConfig
    directory: ReplicaDirectory
    policies: PolicyCache
    tasks: TaskTable
    metrics: GatewayMetrics
    upstream: Upstream
    watch: LossWatch
    access: Access
    admission: Admission
    judged: JudgedTraffic | None
    followers: tuple[Beat, ...]
    access_log: AccessLog | None
    tracer: Tracer
    sends_request_id: bool

    async def start(self) -> None:
        """Follow the database, write the log and send traces; a second call changes nothing."""
        for follower in self.followers:
            await follower.start()
        if self.access_log is not None:
            self.access_log.start()
        self.tracer.start(self.metrics.spans_lost)

    async def stop(self) -> None:
        """Close what is open, and write and send what is left."""
        if self.judged is not None:
            await self.judged.stop()
        await self.upstream.close()
        for follower in self.followers:
            await follower.stop()
        if self.access_log is not None:
            await asyncio.to_thread(self.access_log.stop)
        await asyncio.to_thread(self.tracer.stop)

    def identity(self, request_id: bytes) -> RawHeaders:
        """The x-request-id header, unless the server in front adds it."""
        return [(b"x-request-id", request_id)] if self.sends_request_id else []
