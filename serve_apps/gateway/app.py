"""The gateway: an ASGI application that picks a version, passes bytes through and counts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

from prometheus_client import CONTENT_TYPE_LATEST

from serve_apps.access_log.log import AccessLog
from serve_apps.gateway import headers, openai_errors
from serve_apps.gateway.access import Access
from serve_apps.gateway.admission import Admission
from serve_apps.gateway.asgi import (
    RawHeaders,
    Receive,
    Scope,
    Send,
    path_of,
    send_json,
    send_refusal,
    send_whole,
)
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.exchange import Exchange
from serve_apps.gateway.fresh_replicas import FreshCache, none_fresh
from serve_apps.gateway.judged import JudgedTraffic
from serve_apps.gateway.keys import KeyCache
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.parts import Parts
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.routes import PROXIED
from serve_apps.gateway.shadow import Shadower
from serve_apps.gateway.sleeping import Sleepers
from serve_apps.gateway.standbys import StandbyCache, nobody
from serve_apps.gateway.standing import Standing, standings
from serve_apps.gateway.tally_writer import TallyWriter
from serve_apps.gateway.tasks import TaskTable
from serve_apps.gateway.text_thread import TextThread
from serve_apps.gateway.trace import Tracer
from serve_apps.gateway.upstream import Upstream
from serve_apps.losses.recorder import LossRecorder
from serve_apps.losses.watch import LossWatch

__all__ = ["PROXIED", "Gateway", "GatewayConfig", "build_app"]


def build_app(
    config: GatewayConfig,
    directory: ReplicaDirectory,
    policies: PolicyCache,
    *,
    access_log: AccessLog | None = None,
    fresh: FreshCache | None = None,
    keys: KeyCache | None = None,
    losses: LossRecorder | None = None,
    standbys: StandbyCache | None = None,
    sleepers: Sleepers | None = None,
    tallies: TallyWriter | None = None,
    tasks: TaskTable | None = None,
    tracer: Tracer | None = None,
    replica_key: str | None = None,
    sends_request_id: bool = True,
) -> Gateway:
    """The ASGI application; it starts what it is given with its lifespan or its first request.

    `keys` is needed unless `auth` is `none`; without `tasks` no model has any, and
    without `tracer` nothing is traced. `losses` writes receipts of lost replicas; without `standbys`
    all replicas are alike, without `sleepers` no version sleeps, without `fresh` no replica is fresh,
    and without `tallies` nothing is counted for judged rollouts. `replica_key` is sent to replicas.
    `sends_request_id=False` is for Ray Serve, whose own middleware adds x-request-id to every
    answer; two of them would reach the caller as one garbled value.
    """
    tasks = tasks or TaskTable(config.models)
    metrics = GatewayMetrics(lambda: tasks.stale)
    watch = losses.watch if losses is not None else LossWatch()
    standbys_of = standbys.of if standbys is not None else nobody
    fresh_of = fresh.of if fresh is not None else none_fresh
    beats = (policies, fresh, keys, losses, standbys, sleepers, tallies)
    upstream = Upstream(
        config,
        directory,
        metrics,
        watch,
        replica_key=replica_key,
        standbys=standbys_of,
        fresh=fresh_of,
        sleep=sleepers,
    )
    admission = Admission(config, directory, metrics, standbys=standbys_of, sleep=sleepers)
    judged = None
    if tallies is not None:
        shadower = Shadower(config, upstream, admission, metrics, tallies.saw)
        judged = JudgedTraffic(tallies.saw, TextThread(), shadower, fresh=fresh_of)
    return Gateway(
        Parts(
            config=config,
            directory=directory,
            policies=policies,
            tasks=tasks,
            metrics=metrics,
            upstream=upstream,
            watch=watch,
            access=Access(config, keys),
            admission=admission,
            judged=judged,
            followers=tuple(beat for beat in beats if beat is not None),
            access_log=access_log,
            tracer=tracer or Tracer(),
            sends_request_id=sends_request_id,
        )
    )


class Gateway:
    """ASGI 3. An instance lives in one event loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._created = int(time.time())
        self._own: dict[str, Callable[[RawHeaders, Send, RawHeaders], Awaitable[None]]] = {
            "/v1/models": self._list_models,
            "/healthz": self._say_alive,
            "/readyz": self._say_ready,
            "/metrics": self._show_metrics,
            "/metrics/targets": self._list_targets,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the lifespan or one HTTP request; a websocket is turned away."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._parts.start()
            await self._route(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _live(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] == "lifespan.startup":
            await self._parts.start()
            await send({"type": "lifespan.startup.complete"})
        await self._parts.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = path_of(scope), scope["method"]
        if path in PROXIED and method == "POST":
            await Exchange(self._parts, scope, receive, send, path).run()
            return
        identity = self._parts.identity(headers.request_id(scope["headers"]))
        if path in self._own and method in ("GET", "HEAD"):
            await self._own[path](scope["headers"], send, identity)
        elif path in PROXIED or path in self._own:
            allowed = "POST" if path in PROXIED else "GET"
            await send_refusal(send, openai_errors.method_not_allowed(method, path, allowed), identity)
        else:
            known = (*PROXIED, *self._own)
            await send_refusal(send, openai_errors.no_such_route(method, path, known), identity)

    async def _list_models(self, asked: RawHeaders, send: Send, extra: RawHeaders) -> None:
        caller = self._parts.access.identify(asked)
        if isinstance(caller, Refusal):
            await self._refuse(caller, send, extra)
            return
        names = [name for model in caller.usable(self._parts.config.models) for name in self._names(model)]
        cards = [
            {"id": name, "object": "model", "created": self._created, "owned_by": "linnet"} for name in names
        ]
        await send_json(send, {"object": "list", "data": cards}, extra)

    def _names(self, model: str) -> list[str]:
        versions = self._parts.directory.versions(model)
        return [model, *self._parts.tasks.of(model), *(f"{model}:{version}" for version in versions)]

    async def _say_alive(self, _asked: RawHeaders, send: Send, extra: RawHeaders) -> None:
        await send_json(send, {"status": "ok"}, extra)

    async def _say_ready(self, _asked: RawHeaders, send: Send, extra: RawHeaders) -> None:
        missing = self._missing()
        if missing:
            await send_refusal(send, openai_errors.not_ready(missing), extra)
        else:
            await send_json(send, {"status": "ready"}, extra)

    async def _show_metrics(self, asked: RawHeaders, send: Send, extra: RawHeaders) -> None:
        if refusal := self._parts.access.check_admin(asked):
            await self._refuse(refusal, send, extra)
            return
        typed = [(b"content-type", CONTENT_TYPE_LATEST.encode()), *extra]
        await send_whole(send, 200, typed, self._parts.metrics.text(self._standings()))

    def _standings(self) -> Iterator[Standing]:
        parts = self._parts
        return standings(parts.config.models, parts.directory, parts.policies.get)

    async def _list_targets(self, asked: RawHeaders, send: Send, extra: RawHeaders) -> None:
        """What Prometheus' HTTP service discovery reads: each gateway counts its own requests."""
        if refusal := self._parts.access.check_admin(asked):
            await self._refuse(refusal, send, extra)
        elif not self._parts.directory.ready():
            # Prometheus keeps the list that it has.
            await send_refusal(send, openai_errors.not_ready([openai_errors.UNHEARD]), extra)
        else:
            gateways = await asyncio.to_thread(self._parts.directory.gateways)
            await send_json(send, [{"targets": list(gateways), "labels": {}}], extra)

    async def _refuse(self, refusal: Refusal, send: Send, extra: RawHeaders) -> None:
        self._parts.metrics.refused(refusal.code)
        await send_refusal(send, refusal, extra)

    def _missing(self) -> list[str]:
        if not self._parts.directory.ready():
            return [openai_errors.UNHEARD]
        if not self._parts.access.ready():
            return ["the API keys were not read yet"]
        return [reason for model in self._parts.config.models if (reason := self._missing_of(model))]

    def _missing_of(self, model: str) -> str:
        policy = self._parts.policies.get(model)
        if policy is None:
            return f"no version of {model} is stable"
        directory = self._parts.directory
        if not directory.replicas(model, policy.stable) and not directory.may_sleep(model, policy.stable):
            return f"{model}:{policy.stable} has no replica"
        return ""
