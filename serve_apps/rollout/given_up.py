"""What Serve says of a version whose replicas it does not try to start any more."""

from __future__ import annotations

from serve_apps.version_args import deployment_name

_LONGEST = 300


def by_serve(model: str, version: str) -> str:
    """Serve's reason; empty while it still tries, and for what is no deployment of its own, as an adapter.

    Asks Serve's controller, and waits for it; one that does not answer has not been heard to give up.
    """
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException
    from ray.serve.schema import DeploymentStatus

    try:
        applications = serve.status().applications
    except (RayError, RayServeException):
        return ""
    name = deployment_name(model, version)
    for application in applications.values():
        deployment = application.deployments.get(name)
        if deployment is not None and deployment.status == DeploymentStatus.DEPLOY_FAILED:
            return short(deployment.message)
    return ""


def by_nobody(model: str, version: str) -> str:
    """Where there is no Serve to ask."""
    return ""


def short(message: str) -> str:
    """The sentence that a message begins with, and what its stack trace ends with."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    first = lines[0].partition(". ")[0].rstrip(".") if lines else "it does not say why"
    return (first if len(lines) < 2 else f"{first}: {lines[-1]}")[:_LONGEST]
