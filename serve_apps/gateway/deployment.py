"""The gateway as a Serve application: as many replicas as one likes, no state of their own."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ray import serve
from ray.serve.deployment import Application

from cluster.config import Settings, validate
from cluster.errors import GateFailedError
from cluster.state.database import open_database
from serve_apps import lean_process
from serve_apps.access_log.log import AccessLog
from serve_apps.gateway import utf8_headers
from serve_apps.gateway.adapters import AdapterDirectory
from serve_apps.gateway.app import GatewayConfig, build_app
from serve_apps.gateway.config import Auth
from serve_apps.gateway.fresh_replicas import FreshCache
from serve_apps.gateway.keys import KeyCache
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.replica_key import replica_key
from serve_apps.gateway.serve_directory import ServeReplicaDirectory
from serve_apps.gateway.serve_waker import Waker, by_handle
from serve_apps.gateway.sleeping import Sleepers
from serve_apps.gateway.standbys import StandbyCache
from serve_apps.gateway.tally_writer import TallyWriter
from serve_apps.gateway.tasks import TaskTable
from serve_apps.losses.recorder import LossRecorder
from serve_apps.losses.watch import LossWatch
from serve_apps.serve_settings import HOOK_VARIABLE, ONE_LOOP
from serve_apps.tracing.opening import open_tracer

# `max_in_flight` and `max_queue` bound what runs and what waits, and answer what is beyond them.
_MAX_ONGOING_REQUESTS = 10_000
_ENVIRONMENT = {HOOK_VARIABLE: lean_process.HOOK, utf8_headers.VARIABLE: utf8_headers.HOOK, **ONE_LOOP}


class Gateway:
    """One gateway process; Serve serves the ASGI app that it builds."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._replica_key = replica_key(config.auth, os.environ)
        self._running = ServeReplicaDirectory()
        settings = Settings.load()
        database = open_database(settings.state_url)
        self._directory = AdapterDirectory(database, self._running, config.models)
        self._policies = PolicyCache(database, config.models)
        self._keys = KeyCache(database) if config.auth is not Auth.NONE else None
        self._losses = LossRecorder(database, self._running, LossWatch(), config.models)
        self._standbys = StandbyCache(database, self._directory, config.models)
        self._fresh = FreshCache(database, self._directory, self._policies, config.models)
        self._waker = Waker(by_handle(self._running.application), config.cold_start_wait_s)
        self._sleepers = Sleepers(database, self._directory, config.models, self._waker)
        self._tallies = TallyWriter(database, self._policies, config.models)
        self._tasks = TaskTable(config.models)
        self._tracer = open_tracer(config.traces)
        self._log = AccessLog(config.access_log, settings) if config.access_log.enabled else None

    async def __serve_build_asgi_app__(self) -> Any:
        """Start listening to the controller and to the policy, then build the app."""
        await self._running.check_options()
        self._running.start(asyncio.get_running_loop())
        await self._directory.start()
        await self._policies.start()
        return build_app(
            self._config,
            self._directory,
            self._policies,
            access_log=self._log,
            fresh=self._fresh,
            keys=self._keys,
            losses=self._losses,
            standbys=self._standbys,
            sleepers=self._sleepers,
            tallies=self._tallies,
            tasks=self._tasks,
            tracer=self._tracer,
            replica_key=self._replica_key,
            sends_request_id=False,
        )

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve's hook: called before a replica's first request, and for each new `user_config`.

        Serve stops a running replica whose hook raises, so this raises at the start alone.
        """
        self._tasks.change(user_config)

    def check_health(self) -> None:
        """Serve's health check: the controller must have been heard."""
        if not self._running.ready():
            raise GateFailedError("The gateway has not heard from the Serve controller yet.")

    async def __del__(self) -> None:
        """Serve's hook at the end of a graceful stop."""
        self._running.stop()
        await self._directory.stop()
        await self._policies.stop()
        await self._losses.stop()
        await self._standbys.stop()
        await self._fresh.stop()
        await self._sleepers.stop()
        await self._tallies.stop()
        await self._waker.stop()
        if self._keys is not None:
            await self._keys.stop()
        if self._log is not None:
            await asyncio.to_thread(self._log.stop)
        await asyncio.to_thread(self._tracer.stop)


def build(args: dict[str, Any]) -> Application:
    """The gateway's application; its replica count is Serve's own `deployments` setting."""
    config = validate(args, GatewayConfig, source="args")
    deployment = serve.deployment(
        serve.ingress()(Gateway),
        name="gateway",
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": _ENVIRONMENT}},
        health_check_period_s=2,
        # Without it Serve would not call `reconfigure` when the YAML's own is taken out again.
        user_config={},
    )
    return deployment.bind(config)
