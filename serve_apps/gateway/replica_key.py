"""The key that replicas ask their gateway for, so that nobody goes around it."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import EnvironmentSetupError
from serve_apps.gateway.config import Auth

VARIABLE = "VLLM_API_KEY"
"""vLLM's own: with it set, a replica refuses requests that do not carry its value as a bearer token.

All of them, by `serve_apps/replica_door.py`; vLLM itself guards a part of its routes.
"""


def replica_key(auth: Auth, environ: Mapping[str, str]) -> str | None:
    """What the gateway sends to replicas, if anything.

    Replicas listen below `/_versions/` on the endpoint's own port. Where keys are required they
    must not answer anybody else: raises EnvironmentSetupError without the variable.
    """
    found = environ.get(VARIABLE) or None
    if found is None and auth is Auth.REQUIRED:
        raise EnvironmentSetupError(
            f"`auth: required` needs {VARIABLE}: without it, callers reach the replicas around the gateway.",
            code="environment.replica_key",
            hint=f"Set {VARIABLE} to a random value for `linnet up` or `ray start`, the same on every host.",
        )
    return found
