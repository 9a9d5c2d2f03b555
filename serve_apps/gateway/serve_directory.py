"""Replica addresses as Ray Serve's controller tells them, pushed, not polled.

This file and `serve_plans.py` alone touch Serve's private long poll (Ray 2.60, held by
`tests/serve_apps/gateway/test_serve_directory.py`): HAProxy's own manager listens to the same
`TARGET_GROUPS` key. A public alternative, the REST API's `target_groups`, would be polling.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from cluster.errors import EnvironmentSetupError
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.serve_plans import Place, ServePlans

HOLDS_FOR = "2.60"
"""Of Ray."""

LOOPBACK = "127.0.0.1"

_PREFIX = "/_versions/"
_REPLICA_ACTOR = "SERVE_REPLICA::"

Table = dict[str, dict[str, tuple[Replica, ...]]]


class ServeReplicaDirectory:
    """Running replicas of every version application, kept current by the controller.

    A version whose application exists but has no running replica stays listed, with none.
    """

    def __init__(self) -> None:
        self._table: Table = {}
        self._ready = False
        self._client: Any = None
        self._own_ip = ""
        self._own_app = ""
        self._groups: list[Any] = []
        self._applications: dict[Place, str] = {}
        self._plans = ServePlans()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Subscribe; updates are applied on `loop`."""
        import ray
        from ray import serve
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
        from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

        self._own_ip = ray.util.get_node_ip_address()
        self._own_app = serve.get_replica_context().app_name
        self._plans.start(loop)
        self._client = LongPollClient(
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE),
            {LongPollNamespace.TARGET_GROUPS: self.update},
            call_in_event_loop=loop,
            client_id=f"linnet-gateway:{ray.get_runtime_context().get_actor_id()}",
        )

    async def check_options(self) -> None:
        """Raises EnvironmentSetupError for options under which nobody would reach a replica."""
        import ray
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        refuse_ssl(await controller.get_http_config.remote())

    def stop(self) -> None:
        """End the subscription."""
        if self._client is not None:
            self._client.stop()
        self._plans.stop()

    def update(self, target_groups: Iterable[Any]) -> None:
        """Replace the table by what the controller says."""
        groups = list(target_groups)
        self._table = build_table(groups, own_ip=self._own_ip)
        self._groups = groups
        self._applications = applications(groups)
        self._plans.follow(self._applications)
        self._ready = True

    def replicas(self, model: str, version: str) -> Sequence[Replica]:
        """Running replicas of one version."""
        return self._table.get(model, {}).get(version, ())

    def planned(self, model: str, version: str) -> int | None:
        """How many replicas Serve is to keep, where that is a fixed number."""
        return self._plans.fixed(model, version)

    def may_sleep(self, model: str, version: str) -> bool:
        """Whether Serve may scale it down to nothing."""
        return self._plans.may_sleep(model, version)

    def application(self, model: str, version: str) -> str | None:
        """The name of the application that a version is deployed as."""
        return self._applications.get((model, version))

    def versions(self, model: str) -> Sequence[str]:
        """Versions of a model that have an application."""
        return sorted(self._table.get(model, {}))

    def host(self, model: str, version: str) -> str:
        """Each version has replicas of its own."""
        return version

    def gateways(self) -> Sequence[str]:
        """Where each replica of this gateway's own application listens; tries out those of this host."""
        return addresses(self._groups, app=self._own_app, own_ip=self._own_ip)

    def ready(self) -> bool:
        """Whether the controller has been heard once."""
        return self._ready


def build_table(target_groups: Iterable[Any], *, own_ip: str) -> Table:
    """Model -> version -> replicas, from Serve's target groups.

    Serve names a proxy in the place of replicas where an application has none running;
    those are left out. Replicas on this host (`own_ip`) are called on the loopback address,
    since `http_options.host` may bind them to it alone.
    """
    table: Table = {}
    for group in target_groups:
        if not _is_http(group):
            continue
        named = _version_of(group.route_prefix)
        if named is None:
            continue
        model, version = named
        table.setdefault(model, {})[version] = tuple(
            Replica(
                id=target.name,
                base_url=f"http://{_host(target.ip, own_ip)}:{target.port}{group.route_prefix}",
            )
            for target in group.targets
            if target.name.startswith(_REPLICA_ACTOR)
        )
    return table


def applications(target_groups: Iterable[Any]) -> dict[Place, str]:
    """The name of each version's application."""
    return {
        named: group.app_name
        for group in target_groups
        if _is_http(group) and (named := _version_of(group.route_prefix)) is not None
    }


def refuse_ssl(http_options: Any) -> None:
    """Raises EnvironmentSetupError for `ssl_certfile` in `http_options`.

    Serve gives it to every replica and not to HAProxy, which then reaches none of them.
    """
    if http_options.ssl_certfile:
        raise EnvironmentSetupError(
            "`http_options` has `ssl_certfile`: with HAProxy in front, Serve gives it to the replicas alone.",
            code="environment.ssl_options",
            hint="Leave it out; the endpoint speaks HTTPS with `linnet up --ssl-certfile … --ssl-keyfile …`.",
        )


def addresses(target_groups: Iterable[Any], *, app: str, own_ip: str) -> tuple[str, ...]:
    """`host:port` of each running replica of an application, as the other hosts reach it.

    One on this host that listens on the loopback address alone is reached from nowhere else.
    """
    return tuple(
        f"{target.ip if target.ip != own_ip or _accepts(target.ip, target.port) else LOOPBACK}:{target.port}"
        for group in target_groups
        if group.app_name == app and _is_http(group)
        for target in group.targets
        if target.name.startswith(_REPLICA_ACTOR)
    )


def _accepts(ip: str, port: int) -> bool:
    """Asked of this host only, which answers at once."""
    try:
        with socket.create_connection((ip, port), timeout=0.5):
            return True
    except OSError:
        return False


def _is_http(group: Any) -> bool:
    return str(getattr(group.protocol, "value", group.protocol)) == "HTTP"


def _host(ip: str, own_ip: str) -> str:
    return LOOPBACK if ip == own_ip else ip


def _version_of(prefix: str) -> tuple[str, str] | None:
    if not prefix.startswith(_PREFIX):
        return None
    model, _, version = prefix.removeprefix(_PREFIX).partition("/")
    return (model, version) if model and version else None
