"""Serve's own REST API, by Ray's own client: what runs, and what shall run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from cluster import runtime
from cluster.config import Settings
from cluster.errors import ConflictError, EnvironmentSetupError
from serve_apps.rollout.loop import serve_config
from serve_apps.rollout.loop.serve_config import Config

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient


class Serve(Protocol):
    """What the loop needs of Serve."""

    @property
    def url(self) -> str:
        """Of the endpoint, as this machine reaches it."""
        ...

    def config(self) -> Config:
        """What runs, in the form of `serve deploy`."""
        ...

    def deploy(self, config: Config) -> None:
        """Make it run; returns when Serve has accepted it. What is not in it is taken down."""
        ...


class RayServe:
    """The cluster of RAY_DASHBOARD_ADDRESS, else the one of `linnet up`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def url(self) -> str:
        """Of the endpoint, as this machine reaches it."""
        known = runtime.current(self._settings)
        return known.serve_url if known is not None else "http://127.0.0.1:8000"

    def config(self) -> Config:
        """What runs. Raises EnvironmentSetupError where nobody answers."""
        client = self._client()
        try:
            return serve_config.of_details(client.get_serve_details())
        except (OSError, RuntimeError) as error:
            raise _unreachable(str(error)) from None

    def deploy(self, config: Config) -> None:
        """Make it run. Raises EnvironmentSetupError where nobody answers, ConflictError for a refusal."""
        client = self._client()
        try:
            client.deploy_applications(config)
        except OSError as error:
            raise _unreachable(str(error)) from None
        except RuntimeError as error:
            raise ConflictError(
                f"Serve refuses the config: {str(error)[:500]}",
                code="loop.refused",
                hint="See `serve config`.",
            ) from None

    def _client(self) -> ServeSubmissionClient:
        known = runtime.current(self._settings)
        address = os.environ.get("RAY_DASHBOARD_ADDRESS") or (known.dashboard_url if known else "")
        if not address:
            raise _unreachable("no cluster was started from here, and RAY_DASHBOARD_ADDRESS names none")
        if known is not None:
            # Ray reads this when it is first imported.
            os.environ.setdefault("RAY_AUTH_MODE", known.auth_mode)
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
        from ray.exceptions import AuthenticationError

        try:
            return ServeSubmissionClient(address)
        except (OSError, RuntimeError, ValueError, AuthenticationError) as error:
            raise _unreachable(str(error)) from None


def _unreachable(why: str) -> EnvironmentSetupError:
    return EnvironmentSetupError(
        f"Serve cannot be asked what runs: {why.splitlines()[0]}.",
        code="loop.no_serve",
        hint="`linnet up` and `serve deploy` start an endpoint; RAY_DASHBOARD_ADDRESS names one elsewhere.",
        retryable=True,
    )
