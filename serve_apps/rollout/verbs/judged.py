"""A person's word to a rollout that is judged: `approve`, `pause`, `resume`, `abort`, `retry`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from serve_apps.rollout.verbs.by_hand import ForceFlag
from serve_apps.rollout.verbs.command_line import ModelArgument, ReasonOption, carry_out, open_store

if TYPE_CHECKING:
    from cluster.registry import ModelStore
    from serve_apps.rollout.service import Plan


def approve(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Let the rollout past the step that waits for a person."""
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import Approve

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(Approve(model=model)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout status {model} --watch",
    )


def pause(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Keep the weight; the judge goes on looking, and takes a candidate that fails back all the same."""
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import Pause

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(Pause(model=model)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout resume {model}, or promote, or abort",
    )


def resume(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Go on from where it was paused; gates that have failed are judged anew from there."""
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import Resume

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(Resume(model=model)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout status {model} --watch",
    )


def abort(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    force: ForceFlag = False,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Take the active candidate back to 0%; unlike `rollback`, it never undoes a promotion."""
    from serve_apps.rollout.service import Rollouts

    store = open_store(root)
    carry_out(
        Rollouts(store),
        _abort(store, model, force=force),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout retry {model}, or start {model}:VERSION",
    )


def retry(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Begin the last judged rollout anew, with the same candidate and policy, if it was taken back."""
    from serve_apps.rollout.service import Rollouts

    store = open_store(root)
    carry_out(
        Rollouts(store),
        _retry(store, model),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout status {model} --watch, or wait {model}",
    )


def _abort(store: ModelStore, model: str, *, force: bool) -> Plan:
    from serve_apps.rollout import records
    from serve_apps.rollout.moves import require_active
    from serve_apps.rollout.service import Rollouts, require_model
    from serve_apps.rollout.states import Rollback

    require_model(store, model)
    with store.database.snapshot() as session:
        active = require_active(records.read_situation(session, model), "abort")
    return Rollouts(store).plan(Rollback(model=model, force=force, rollout=active.id))


def _retry(store: ModelStore, model: str) -> Plan:
    from serve_apps.rollout import finding_rollouts, records
    from serve_apps.rollout.service import Rollouts, require_model

    require_model(store, model)
    with store.database.snapshot() as session:
        row = finding_rollouts.taken_back(session, model)
        candidate, spec = row.candidate, records.spec_of(row)
    assert spec is not None
    return Rollouts(store).plan_begin(model, candidate, spec)
