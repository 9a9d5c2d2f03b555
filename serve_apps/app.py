"""The builders that a `serve deploy` YAML names: `gateway`, `version` and `rollouts`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ray.serve.deployment import Application

from cluster.config import validate
from cluster.errors import ConfigError, EnvironmentSetupError
from cluster.manifest import VersionKind, VersionManifest
from cluster.registry import ModelStore
from cluster.tls.haproxy import BINARY, PROGRAM
from cluster.tls.pair import CERTFILE, KeyPair
from serve_apps.version_args import VersionArgs

DIRECT_INGRESS = ("RAY_SERVE_ENABLE_DIRECT_INGRESS", "RAY_SERVE_ENABLE_HA_PROXY")


def gateway(args: dict[str, Any]) -> Application:
    """The OpenAI-compatible front of one or more models; imports no vLLM."""
    from serve_apps.gateway.deployment import build

    _require_direct_ingress()
    _require_https_if_asked_for()
    return build(args)


def version(args: dict[str, Any]) -> Application:
    """One version of a model: vLLM replicas that prove themselves.

    Raises NotFoundError for an unknown version, ConfigError for an adapter, and IntegrityError for one
    whose files differ from its manifest, so that `serve deploy` refuses it before anything starts.
    """
    from serve_apps.engine_deployment import build

    _require_direct_ingress()
    parsed = validate(args, VersionArgs, source="args")
    store = ModelStore.open()
    ref = store.resolve(parsed.version)
    _require_whole(store.manifest(ref))
    store.local_dir(ref)
    return build(parsed)


def rollouts(args: dict[str, Any]) -> Application:
    """The controller that moves and judges rollouts, and those that the YAML declares."""
    from serve_apps.rollout.deployment import build

    return build(args)


def _require_whole(manifest: VersionManifest) -> None:
    if manifest.kind is VersionKind.ADAPTER:
        raise ConfigError(
            f"`{manifest.ref}` is an adapter, which has no weights to serve alone.",
            code="adapters.alone",
            hint=f"Name it in the user_config of {manifest.parent}'s deployment: adapters: [{manifest.ref}].",
        )


def _require_https_if_asked_for() -> None:
    if KeyPair.of(os.environ) is not None and Path(os.environ.get(BINARY, "")).name != PROGRAM:
        raise EnvironmentSetupError(
            f"{CERTFILE} names a certificate, but HAProxy would not use it, and the endpoint would be plain.",
            code="environment.haproxy_binary",
            hint=f"Start the cluster with `linnet up`, or with {BINARY} set to the path of {PROGRAM}.",
        )


def _require_direct_ingress() -> None:
    if not any(os.environ.get(name) == "1" for name in DIRECT_INGRESS):
        raise EnvironmentSetupError(
            "This Ray cluster was started without direct ingress, which the gateway reaches replicas by.",
            code="environment.direct_ingress",
            hint="Start it with `linnet up`, or with RAY_SERVE_ENABLE_HA_PROXY=1 set for `ray start`.",
        )
