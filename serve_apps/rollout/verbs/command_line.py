"""What the verbs of `linnet rollout` share: arguments, the store, and how a command is carried out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.config import Settings, load_yaml
from cluster.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cluster.registry import ModelStore
    from serve_apps.rollout.service import Applied, Plan, Rollouts
    from serve_apps.rollout.spec import RolloutSpec

ModelArgument = Annotated[str, typer.Argument(help="The model, such as smollm2.")]
RolloutArgument = Annotated[int, typer.Argument(metavar="N", help="A rollout's id, from `list`.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the decision and its events.")]
PolicyFile = Annotated[Path, typer.Option("--policy", help="A YAML file with the rollout's policy.")]


def open_store(root: str | None) -> ModelStore:
    """The model store with its state database."""
    from cluster.registry import ModelStore

    return ModelStore.open(Settings.load(root))


def read_policy(file: Path, candidate: str | None = None) -> RolloutSpec:
    """The policy in a file, for `candidate` where one is given.

    Raises NotFoundError and ConfigError as `load_yaml` does, and ConfigError for a policy of another version.
    """
    from serve_apps.rollout.spec import RolloutSpec

    spec = load_yaml(file, RolloutSpec)
    if candidate is None:
        return spec
    if spec.candidate not in (None, candidate):
        raise ConfigError(
            f"`{file}` is a policy for the candidate {spec.candidate}, not for {candidate}.",
            code="rollout.other_candidate",
            hint="Leave `candidate` out of the file, or name the same version.",
        )
    return spec.model_copy(update={"candidate": candidate})


def seconds(given: str) -> float:
    """A time as it is written on a command line. Raises UsageError for what is none."""
    from pydantic import TypeAdapter, ValidationError

    from serve_apps.rollout.units import Duration

    try:
        return TypeAdapter(Duration).validate_python(given).total_seconds()
    except ValidationError as error:
        raise UsageError(
            f"`{given}` is no timeout: {error.errors()[0]['msg'].removeprefix('Value error, ')}.",
            code="usage.arguments",
            hint="Write 90s, 30m or 24h.",
        ) from None


def carry_out(
    rollouts: Rollouts,
    plan: Plan,
    reason: str,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    next_command: str,
) -> None:
    """Show a plan, ask, apply it, and tell what was done."""
    from serve_apps.rollout import wording

    applied: Applied | None = None
    if output.confirm(wording.lines(plan), yes=yes, dry_run=dry_run):
        applied = rollouts.apply(plan, reason=reason)
        if applied.warning:
            output.progress(f"warning: {applied.warning}")
    output.emit_mutation(
        target=plan.command.model,
        applied=applied is not None,
        dry_run=dry_run,
        detail=wording.detail(plan, applied),
        as_json=as_json,
        sentence=plan.decision.sentence if applied else "Nothing was changed.",
        next_command=next_command if applied else "",
    )
