"""The config that Serve runs by, as `serve deploy` takes it: read from Serve, and given one more version."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from cluster.errors import ConflictError, NotFoundError, one_of
from cluster.refs import VersionRef
from serve_apps.version_args import deployment_name, route_prefix

Config = dict[str, Any]

VERSION = "serve_apps.app:version"
CONTROLLER = "serve_apps.app:rollouts"
_KEPT = ("proxy_location", "http_options", "grpc_options", "target_capacity")


def of_details(details: Mapping[str, Any]) -> Config:
    """What `serve deploy` would be given for what runs now, from what Serve says of itself.

    Applications that were not deployed by a config are not in it, and are left alone by a deploy.
    """
    applications = (app.get("deployed_app_config") for app in details.get("applications", {}).values())
    kept = {key: details[key] for key in _KEPT if details.get(key) is not None}
    return {**kept, "applications": [app for app in applications if app]}


def application_of(config: Config, ref: VersionRef) -> Config | None:
    """The application that serves a version."""
    for app in config["applications"]:
        if app["import_path"] == VERSION and app.get("args", {}).get("version") == str(ref):
            found: Config = app
            return found
    return None


def has_controller(config: Config) -> bool:
    """Whether anybody moves rollouts."""
    return any(app["import_path"] == CONTROLLER for app in config["applications"])


def with_version(config: Config, candidate: VersionRef, *, like: VersionRef) -> Config:
    """With an application for `candidate` that differs from that of `like` in its version alone.

    The same config where it has one. Raises NotFoundError where `like` has no application of its own,
    and ConflictError where something else has the name of the new one.
    """
    if application_of(config, candidate) is not None:
        return config
    found = application_of(config, like)
    if found is None:
        served = [app["args"]["version"] for app in config["applications"] if app["import_path"] == VERSION]
        raise NotFoundError(
            f"`{like}` has no application in Serve, which one for `{candidate}` would be made like.",
            code="loop.no_stable_application",
            hint=f"`serve deploy` a YAML that holds {like.version}. Served now: {one_of(served)}.",
        )
    return _with(config, _renamed(found, like, candidate))


def with_controller(config: Config, url: str) -> Config:
    """With the application that moves rollouts; `url` is the endpoint's. The same where it has one."""
    if has_controller(config):
        return config
    block = {"name": "rollouts", "import_path": CONTROLLER, "route_prefix": None, "args": {"url": url}}
    return _with(config, block)


def _with(config: Config, block: Config) -> Config:
    if any(app["name"] == block["name"] for app in config["applications"]):
        raise ConflictError(
            f"Serve has another application of the name `{block['name']}`.",
            code="loop.name_taken",
            hint="`serve config` shows it; rename it in its YAML and deploy that.",
        )
    return {**config, "applications": [*config["applications"], block]}


def _renamed(app: Config, was: VersionRef, now: VersionRef) -> Config:
    block = copy.deepcopy(app)
    block["name"] = deployment_name(now.model, now.version)
    block["route_prefix"] = route_prefix(now)
    block["args"]["version"] = str(now)
    for deployment in block.get("deployments", []):
        if deployment["name"] == deployment_name(was.model, was.version):
            deployment["name"] = block["name"]
        # Adapters stand on the weights that they were trained on.
        if deployment.get("user_config"):
            deployment["user_config"].pop("adapters", None)
    return block
