"""From a finished run to a rollout of what it published: what training asks for and serving provides.

Neither room knows the other. The provider `then_rollout` is found by its entry point.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cluster import extensions
from cluster.config import Settings, StrictModel
from cluster.refs import VersionRef

Say = Callable[[str], None]


class Begun(StrictModel):
    """A version's rollout by a policy; `deployed` and `begun` tell what was done now and not before."""

    rollout: int
    phase: str
    deployed: bool
    begun: bool


class ThenRollout(Protocol):
    """Each of its steps may be repeated: what is done already is found and left alone."""

    def plan(self, candidate: VersionRef) -> list[str]:
        """What is left to be done for a version that need not exist yet, in words; empty for nothing.

        Raises what can be known beforehand: an endpoint that does not run, a policy for another version.
        """
        ...

    def carry_out(self, candidate: VersionRef, *, run: str, say: Say) -> Begun:
        """Deploy a published version beside the stable one and begin its rollout."""
        ...

    def wait(self, candidate: VersionRef, rollout: int, say: Say) -> dict[str, Any]:
        """How the rollout ended. Raises GateFailedError unless promoted, TimedOutError without a verdict."""
        ...


def then_rollout(policy: Path, settings: Settings, wait: str | None = None) -> ThenRollout:
    """By the policy in a file; `wait` is for how long its end is waited for: `30m`.

    Raises NotFoundError and ConfigError for a policy that cannot be read, UsageError for a time that is none.
    """
    provide = extensions.load(extensions.PROVIDERS, "then_rollout")
    provided: ThenRollout = provide(policy, settings, wait=wait)
    return provided
