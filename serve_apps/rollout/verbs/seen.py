"""Verbs that look at what is and was: `list`, `status`, `history`, `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.cli.output import JsonFlag, RootOption
from cluster.errors import IntegrityError, UsageError
from serve_apps.rollout.verbs.command_line import ModelArgument, open_store

if TYPE_CHECKING:
    from cluster.registry import ModelStore
    from serve_apps.rollout.pen import Pen
    from serve_apps.rollout.view import RolloutStatus


def list_rollouts(as_json: JsonFlag = False, root: RootOption = None) -> None:
    """All rollouts, oldest first."""
    from serve_apps.rollout import records

    columns = ["id", "model", "candidate", "stable", "phase", "reason", "weight", "started_at", "updated_at"]
    with open_store(root).database.snapshot() as session:
        rows = [{name: getattr(row, name) for name in columns} for row in records.rollouts(session)]
    output.emit_list(
        rows,
        columns,
        as_json=as_json,
        empty="No rollout yet. next: linnet rollout start MODEL:VERSION --weight 10",
    )


def status(
    model: Annotated[str | None, typer.Argument(help="One model; all without it.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw each second until Ctrl-C.")] = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Phase, steps, versions with weights and replicas, gates, and the last events, as a tree."""
    from serve_apps.rollout import watching
    from serve_apps.rollout.pen import pen_for_stdout

    store = open_store(root)
    if watch and as_json:
        raise UsageError("--watch and --json do not go together.", hint="Call `status --json` repeatedly.")
    pen = pen_for_stdout()
    if watch:
        watching.watch(lambda: _tree(_statuses(store, model), pen))
    elif as_json:
        output.emit_list([s.model_dump(mode="json") for s in _statuses(store, model)], [], as_json=True)
    else:
        typer.echo(_tree(_statuses(store, model), pen), color=pen.colour)


def history(
    model: ModelArgument,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Every decision and alias move of a model, with who and why, oldest first.

    IN FORCE: how long after a decision the last gateway routed by it; known for a day.
    """
    from serve_apps.rollout import happenings
    from serve_apps.rollout.service import require_model

    store = open_store(root)
    require_model(store, model)
    with store.database.snapshot() as session:
        rows = happenings.history(session, model, limit)
    output.emit_list(
        [row.model_dump(mode="json") if as_json else row.cells() for row in rows],
        ["at", "decision", "sentence", "in_force", "actor", "reason"],
        as_json=as_json,
    )


def explain(
    decision: Annotated[
        int | None, typer.Argument(metavar="ID", help="A decision's id, from `history`.")
    ] = None,
    rollout: Annotated[int | None, typer.Option("--rollout", help="All decisions of this rollout.")] = None,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Recompute a decision, or all of a rollout, from what is stored, and compare; exit 1 when it differs."""
    if (decision is None) == (rollout is None):
        raise UsageError(
            "Give the id of a decision or `--rollout`, not both.",
            code="usage.arguments",
            hint="`linnet rollout history MODEL` lists decisions, `linnet rollout list` rollouts.",
        )
    store = open_store(root)
    if decision is not None:
        _explain_decision(store, decision, as_json=as_json)
    elif rollout is not None:
        _explain_rollout(store, rollout, as_json=as_json)


def _explain_decision(store: ModelStore, decision: int, *, as_json: bool) -> None:
    from serve_apps.rollout import explained_words, wording
    from serve_apps.rollout.service import Rollouts

    explanation = Rollouts(store).explain(decision)
    if not explanation.agrees:
        at = "" if explanation.differing is None else f" Look {explanation.differing} differs."
        raise IntegrityError(
            f"Decision {decision} recomputes differently: stored {explanation.outcome}, "
            f"recomputed {explanation.recomputed}.{at}",
            code="rollout.decision_differs",
        )
    if as_json:
        output.emit(explanation.model_dump(mode="json"))
        return
    output.table(["what", "value"], wording.explanation_rows(explanation))
    if explanation.gates:
        typer.echo(f"\n{explained_words.COUNTED}")
    for line in explained_words.gate_lines(explanation.gates):
        typer.echo(line)


def _explain_rollout(store: ModelStore, rollout: int, *, as_json: bool) -> None:
    from serve_apps.rollout import explained_words
    from serve_apps.rollout.explaining import explain_rollout

    with store.database.snapshot() as session:
        explained = explain_rollout(session, rollout)
    if not explained.agrees:
        raise IntegrityError(
            f"Rollout {rollout} recomputes differently: {explained_words.difference(explained)}.",
            code="rollout.decision_differs",
            hint="`linnet rollout explain ID` shows what was stored of one decision, and what it gives now.",
        )
    if as_json:
        output.emit(explained.model_dump(mode="json"))
    else:
        explained_words.show(explained)


def _statuses(store: ModelStore, model: str | None) -> list[RolloutStatus]:
    from cluster.state.tables import utc_now
    from serve_apps import endpoints
    from serve_apps.rollout import view
    from serve_apps.rollout.service import require_model

    if model is not None:
        require_model(store, model)
    with store.database.snapshot() as session:
        names = endpoints.known_models(session) if model is None else [model]
        return [view.status_of(session, name, utc_now()) for name in names]


def _tree(statuses: list[RolloutStatus], pen: Pen) -> str:
    from serve_apps.rollout.tree import tree

    blocks = ["\n".join(tree(status, pen)) for status in statuses]
    return "\n\n".join(blocks) or "Nothing is served and no rollout has been started."
