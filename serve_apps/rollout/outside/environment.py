"""Secrets, which a spec names and the environment holds."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import ConfigError

ENDPOINTS_KEY = "The endpoint's API key for held-out questions"


def judges_key(url: str) -> str:
    """What the key of a judge is called."""
    return f"The API key for the judge {url}"


def secret(environ: Mapping[str, str], variable: str, what: str) -> str:
    """The value of a variable. Raises ConfigError where it is not set, or empty."""
    found = environ.get(variable, "")
    if not found.strip():
        raise ConfigError(
            f"{what} is expected in the variable {variable}, which is not set.",
            code="rollout.no_secret",
            hint=f"Set {variable} for `linnet up` or `ray start` on the host of the rollout's controller.",
        )
    return found


def bearer(environ: Mapping[str, str], variable: str | None, what: str) -> dict[str, str]:
    """The header that a key goes into; none where no variable is named.

    Raises ConfigError for a key that is not there, or that no header can hold.
    """
    if variable is None:
        return {}
    key = secret(environ, variable, what).strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"{what}, in the variable {variable}, holds what no header can: other than printable ASCII.",
            code="rollout.bad_secret",
            hint="Set it to the key alone, on one line.",
        )
    return {"Authorization": f"Bearer {key}"}
