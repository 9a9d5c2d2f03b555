"""Serve as the loop sees it: a config that is read and replaced."""

from __future__ import annotations

import copy
from typing import Any

from serve_apps.rollout.loop.serve_config import Config


def version_block(label: str, **changes: Any) -> Config:
    return {
        "name": f"tiny-{label}",
        "import_path": "serve_apps.app:version",
        "route_prefix": f"/_versions/tiny/{label}",
        "args": {"version": f"tiny:{label}", "engine_kwargs": {"max_model_len": 256}},
        "deployments": [{"name": f"tiny-{label}", "num_replicas": 2}],
        **changes,
    }


GATEWAY = {
    "name": "gateway",
    "import_path": "serve_apps.app:gateway",
    "route_prefix": "/",
    "args": {"models": ["tiny"]},
}
CONTROLLER = {
    "name": "rollouts",
    "import_path": "serve_apps.app:rollouts",
    "route_prefix": None,
    "args": {"url": "http://127.0.0.1:8123"},
}


class FakeServe:
    """`deployed` is every config that it was given."""

    url = "http://127.0.0.1:8123"

    def __init__(self, *applications: Config) -> None:
        self.now: Config = {"proxy_location": "EveryNode", "applications": list(applications)}
        self.deployed: list[Config] = []

    def config(self) -> Config:
        return copy.deepcopy(self.now)

    def deploy(self, config: Config) -> None:
        self.now = copy.deepcopy(config)
        self.deployed.append(self.now)

    def names(self) -> list[str]:
        return [app["name"] for app in self.now["applications"]]
