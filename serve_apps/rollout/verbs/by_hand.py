"""Verbs that begin, weigh and end rollouts: `start`, `set-weight`, `promote`, `rollback`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from cluster.errors import UsageError
from serve_apps.rollout.verbs.command_line import (
    ModelArgument,
    ReasonOption,
    carry_out,
    open_store,
    read_policy,
)

if TYPE_CHECKING:
    from cluster.refs import VersionRef
    from cluster.registry import ModelStore
    from serve_apps.rollout.service import Plan, Rollouts

ForceFlag = Annotated[
    bool, typer.Option("--force", help="Go back even to a version without a serving replica.")
]


def start(
    version: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="The candidate.")],
    weight: Annotated[
        float | None, typer.Option("--weight", "-w", help="Its share in percent, 0 to 100; you move it on.")
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option("--policy", help="A YAML file; it goes on by itself, judged by it."),
    ] = None,
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take back the rollout that is active; with --policy.")
    ] = False,
    reason: ReasonOption = "",
    allow_tokenizer_change: Annotated[
        bool, typer.Option(help="Accept a candidate with another tokenizer or chat template.")
    ] = False,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Give a candidate a share of the traffic: by hand (--weight), or step by step by a policy (--policy).

    By hand it must have a serving replica. By a policy it waits for one at 0%.
    """
    from serve_apps.rollout.service import Rollouts

    if (weight is None) == (policy is None) or (replace and policy is None):
        raise UsageError(
            "`--replace` goes with `--policy`." if replace else "Give one of `--weight` and `--policy`.",
            code="usage.arguments",
            hint="`--weight 10` moves it by hand; `--policy canary.yaml` lets it be judged.",
        )
    store = open_store(root)
    ref, rollouts = store.resolve(version), Rollouts(store)
    if policy is None:
        plan = _by_hand(rollouts, ref, weight or 0.0, allow_tokenizer_change=allow_tokenizer_change)
        following = f"linnet rollout set-weight {ref.model} WEIGHT, or promote, or rollback"
    else:
        plan = _judged(store, ref, policy, replace=replace, allow_tokenizer_change=allow_tokenizer_change)
        following = f"linnet rollout status {ref.model} --watch, or wait {ref.model}"
    carry_out(rollouts, plan, reason, yes=yes, dry_run=dry_run, as_json=as_json, next_command=following)


def set_weight(
    model: ModelArgument,
    weight: Annotated[float, typer.Argument(help="The candidate's share in percent, 0 to 100.")],
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Change the candidate's share, up or down; lowering it needs no replica of it."""
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import SetWeight

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(SetWeight(model=model, weight=weight)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout promote {model}, or rollback",
    )


def promote(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Make the active candidate @stable at 100%; the old stable becomes @previous."""
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import Promote

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(Promote(model=model)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout rollback {model} takes it back",
    )


def rollback(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    force: ForceFlag = False,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Take the active candidate back to 0%; with none active, undo the last promotion at once.

    Undoing swaps @stable and @previous. To go forward again, `start` the version and `promote` it.
    """
    from serve_apps.rollout.service import Rollouts
    from serve_apps.rollout.states import Rollback

    rollouts = Rollouts(open_store(root))
    carry_out(
        rollouts,
        rollouts.plan(Rollback(model=model, force=force)),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout start {model}:VERSION --weight 10",
    )


def _by_hand(rollouts: Rollouts, ref: VersionRef, weight: float, *, allow_tokenizer_change: bool) -> Plan:
    from serve_apps.rollout.states import Start

    command = Start(
        model=ref.model,
        candidate=ref.version,
        weight=weight,
        allow_tokenizer_change=allow_tokenizer_change,
    )
    return rollouts.plan(command)


def _judged(
    store: ModelStore, ref: VersionRef, file: Path, *, replace: bool, allow_tokenizer_change: bool
) -> Plan:
    from serve_apps.rollout import checking
    from serve_apps.rollout.outside.placeholders import Names
    from serve_apps.rollout.service import Rollouts

    spec = read_policy(file, ref.version)
    if allow_tokenizer_change:
        spec = spec.model_copy(update={"allow_tokenizer_change": True})
    plan = Rollouts(store).plan_begin(ref.model, ref.version, spec, replace=replace)
    checking.check(spec, Names(ref.model, ref.version, plan.decision.policy.stable), os.environ)
    return plan
