"""A stored decision made again from its stored inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.errors import IntegrityError, LinnetError
from cluster.state.tables import DecisionRow
from serve_apps.rollout.machine import decide
from serve_apps.rollout.states import COMMANDS, Command, Decision, Situation


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What was decided then, and what the same command in the same situation gives now, both as JSON."""

    command: Command
    situation: Situation
    stored: dict[str, Any]
    now: dict[str, Any]

    @property
    def agrees(self) -> bool:
        """Whether both are the same."""
        return self.stored == self.now


def recompute(row: DecisionRow) -> Recomputed:
    """Decide again. Raises IntegrityError for inputs that cannot be read."""
    try:
        command = COMMANDS.validate_python(row.inputs["command"])
        situation = Situation.model_validate(row.inputs["situation"])
        stored = Decision.model_validate(row.outcome).model_dump(mode="json")
    except (KeyError, ValueError) as error:
        raise IntegrityError(
            f"The stored inputs of decision {row.id} cannot be read: {error}",
            code="rollout.decision_unreadable",
        ) from None
    try:
        now = decide(command, situation).model_dump(mode="json")
    except LinnetError as error:
        now = {"refused": error.to_dict()}
    return Recomputed(command, situation, stored, now)
