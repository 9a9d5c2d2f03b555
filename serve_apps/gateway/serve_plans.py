"""How many replicas of each version Ray Serve was told to run, as its controller pushes it.

Beside `serve_directory.py` the only place that touches Serve's private long poll (Ray 2.60, held by
`tests/serve_apps/gateway/test_serve_plans.py`): Serve's own handles follow the same `DEPLOYMENT_CONFIG`
key. It tells what is in force, the YAML's `deployments` included, which a version's `args` do not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from serve_apps.version_args import deployment_name

Place = tuple[str, str]
"""Model and version."""


class ServePlans:
    """One subscription for each version: a client that waits takes up no further keys for a minute."""

    def __init__(self) -> None:
        self._subscribe: Callable[[Place, str], Any] | None = None
        self._clients: dict[Place, tuple[str, Any]] = {}
        self._known: dict[Place, Any] = {}

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on `follow` subscribes; updates are applied on `loop`."""
        import ray
        from ray.serve._private.common import DeploymentID
        from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
        from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        own_id = ray.get_runtime_context().get_actor_id()

        def subscribe(place: Place, app: str) -> Any:
            name = deployment_name(*place)
            key = (LongPollNamespace.DEPLOYMENT_CONFIG, DeploymentID(name=name, app_name=app))
            return LongPollClient(
                controller,
                {key: partial(self.update, place)},
                call_in_event_loop=loop,
                client_id=f"linnet-gateway:{own_id}:{name}",
            )

        self._subscribe = subscribe

    def follow(self, applications: Mapping[Place, str]) -> None:
        """Follow these versions, each in the application of this name, and no others."""
        for place, (app, client) in list(self._clients.items()):
            if applications.get(place) != app:
                client.stop()
                del self._clients[place]
                self._known.pop(place, None)
        if self._subscribe is None:
            return
        for place, app in applications.items():
            if place not in self._clients:
                self._clients[place] = (app, self._subscribe(place, app))

    def stop(self) -> None:
        """End the subscriptions; what is known stays readable."""
        for _, client in self._clients.values():
            client.stop()

    def update(self, place: Place, config: Any) -> None:
        """Take over a deployment's configuration."""
        self._known[place] = config

    def fixed(self, model: str, version: str) -> int | None:
        """The number of replicas to keep; None where it goes by load, or was not heard yet."""
        config = self._known.get((model, version))
        if config is None or config.autoscaling_config is not None:
            return None
        return config.num_replicas

    def may_sleep(self, model: str, version: str) -> bool:
        """Whether none need run while nobody asks."""
        config = self._known.get((model, version))
        scaling = None if config is None else config.autoscaling_config
        return scaling is not None and scaling.min_replicas == 0
