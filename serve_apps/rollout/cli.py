"""`linnet rollout`: start a candidate, set its weight, promote it, roll it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from cluster.config import Settings
from cluster.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from cluster.registry import ModelStore
    from serve_apps.rollout.service import Applied
    from serve_apps.rollout.states import Command
    from serve_apps.rollout.view import RolloutStatus

_HELP = """Start a candidate, set its weight, promote it, roll it back.

The loop: `start` gives a candidate a share, `set-weight` moves it up or down, `promote` makes it
@stable and keeps the old stable as @previous. `rollback` takes an active candidate back to 0%, or,
with none active, undoes the last promotion at once. After a rollback, `start` the version again
(or another one) and `promote` it: there is no way to 100% without a start.
"""

app = output.new_app(_HELP)

ModelArgument = Annotated[str, typer.Argument(help="The model, such as smollm2.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the decision and its events.")]


@app.callback(invoke_without_command=True, help=_HELP)
def rollouts_by_default(context: typer.Context, as_json: JsonFlag = False, root: RootOption = None) -> None:
    """List rollouts without a verb."""
    if context.invoked_subcommand is None:
        list_rollouts(as_json=as_json, root=root)


@app.command("list")
def list_rollouts(as_json: JsonFlag = False, root: RootOption = None) -> None:
    """All rollouts, oldest first."""
    from serve_apps.rollout import records

    columns = ["id", "model", "candidate", "stable", "phase", "reason", "weight", "started_at", "updated_at"]
    with _open(root).database.snapshot() as session:
        rows = [{name: getattr(row, name) for name in columns} for row in records.rollouts(session)]
    output.emit_list(
        rows,
        columns,
        as_json=as_json,
        empty="No rollout yet. next: linnet rollout start MODEL:VERSION --weight 10",
    )


@app.command()
def start(
    version: Annotated[str, typer.Argument(metavar="MODEL:VERSION", help="The candidate.")],
    weight: Annotated[float, typer.Option("--weight", "-w", help="Its share in percent, 0 to 100.")],
    *,
    reason: ReasonOption = "",
    allow_tokenizer_change: Annotated[
        bool, typer.Option(help="Accept a candidate with another tokenizer or chat template.")
    ] = False,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Give a candidate a first share of the traffic; it must have a serving replica."""
    from serve_apps.rollout.states import Start

    store = _open(root)
    ref = store.resolve(version)
    command = Start(
        model=ref.model,
        candidate=ref.version,
        weight=weight,
        allow_tokenizer_change=allow_tokenizer_change,
    )
    _carry_out(
        store,
        command,
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout set-weight {ref.model} WEIGHT, or promote, or rollback",
    )


@app.command("set-weight")
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
    from serve_apps.rollout.states import SetWeight

    _carry_out(
        _open(root),
        SetWeight(model=model, weight=weight),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout promote {model}, or rollback",
    )


@app.command()
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
    from serve_apps.rollout.states import Promote

    _carry_out(
        _open(root),
        Promote(model=model),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout rollback {model} takes it back",
    )


@app.command()
def rollback(
    model: ModelArgument,
    *,
    reason: ReasonOption = "",
    force: Annotated[
        bool, typer.Option("--force", help="Go back even to a version without a serving replica.")
    ] = False,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Take the active candidate back to 0%; with none active, undo the last promotion at once.

    Undoing swaps @stable and @previous. To go forward again, `start` the version and `promote` it.
    """
    from serve_apps.rollout.states import Rollback

    _carry_out(
        _open(root),
        Rollback(model=model, force=force),
        reason,
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        next_command=f"linnet rollout start {model}:VERSION --weight 10",
    )


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="One model; all without it.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw each second until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Phase, versions with weights and replicas, and the last events, as a tree."""
    from serve_apps.rollout import watching

    store = _open(root)
    if watch and as_json:
        raise UsageError("--watch and --json do not go together.", hint="Call `status --json` repeatedly.")
    if watch:
        watching.watch(lambda: _tree(_statuses(store, model)))
    elif as_json:
        output.emit_list([s.model_dump(mode="json") for s in _statuses(store, model)], [], as_json=True)
    else:
        typer.echo(_tree(_statuses(store, model)))


@app.command()
def history(
    model: ModelArgument,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Every decision and alias move of a model, with who and why, oldest first."""
    from serve_apps.rollout import records, wording
    from serve_apps.rollout.service import require_model

    store = _open(root)
    require_model(store, model)
    with store.database.snapshot() as session:
        rows = [wording.history_row(event) for event in records.events_of(session, model, limit)]
    output.emit_list(rows, ["at", "decision", "sentence", "actor", "reason"], as_json=as_json)


@app.command()
def explain(
    decision: Annotated[int, typer.Argument(metavar="ID", help="A decision's id, from `history`.")],
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Recompute a decision from its stored inputs and compare; exit 1 when it differs."""
    from serve_apps.rollout import wording
    from serve_apps.rollout.service import Rollouts

    explanation = Rollouts(_open(root)).explain(decision)
    if not explanation.agrees:
        raise IntegrityError(
            f"Decision {decision} recomputes differently: stored {explanation.outcome}, "
            f"recomputed {explanation.recomputed}.",
            code="rollout.decision_differs",
        )
    if as_json:
        output.emit(explanation.model_dump(mode="json"))
        return
    output.table(["what", "value"], wording.explanation_rows(explanation))


def _open(root: str | None) -> ModelStore:
    from cluster.registry import ModelStore

    return ModelStore.open(Settings.load(root))


def _carry_out(
    store: ModelStore,
    command: Command,
    reason: str,
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    next_command: str,
) -> None:
    from serve_apps.rollout import wording
    from serve_apps.rollout.service import Rollouts

    rollouts = Rollouts(store)
    plan = rollouts.plan(command)
    applied: Applied | None = None
    if output.confirm(wording.lines(plan), yes=yes, dry_run=dry_run):
        applied = rollouts.apply(plan, reason=reason)
        if applied.warning:
            output.progress(f"warning: {applied.warning}")
    output.emit_mutation(
        target=command.model,
        applied=applied is not None,
        dry_run=dry_run,
        detail=wording.detail(plan, applied),
        as_json=as_json,
        sentence=plan.decision.sentence if applied else "Nothing was changed.",
        next_command=next_command if applied else "",
    )


def _statuses(store: ModelStore, model: str | None) -> list[RolloutStatus]:
    from serve_apps import endpoints
    from serve_apps.rollout import view
    from serve_apps.rollout.service import require_model

    if model is not None:
        require_model(store, model)
    with store.database.snapshot() as session:
        names = endpoints.known_models(session) if model is None else [model]
        return [view.status_of(session, name) for name in names]


def _tree(statuses: list[RolloutStatus]) -> str:
    from serve_apps.rollout import view

    blocks = ["\n".join(view.tree(status)) for status in statuses]
    return "\n\n".join(blocks) or "Nothing is served and no rollout has been started."
