"""`linnet train`: run, list, show, audit, logs, cancel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import output
from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from cluster.config import Settings
from cluster.errors import UsageError

if TYPE_CHECKING:
    from train_jobs.closing import Closing
    from train_jobs.planning import Plan

app = output.new_app("Run, list, show, follow and cancel fine-tuning runs.")

RunName = Annotated[str, typer.Argument(help="Name of the run, as `linnet train list` prints it.")]


@app.command("run")
def run_command(
    file: Annotated[str, typer.Argument(help="Spec file, such as train_jobs/smollm2_sentiment.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value, over the file.")] = None,
    *,
    then_rollout: Annotated[
        Path | None,
        typer.Option(
            "--then-rollout", help="A rollout's policy: deploy what was published, and roll it out."
        ),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option("--wait", help="With it: wait so long for the rollout's end (90s, 30m, 24h)."),
    ] = None,
    root: RootOption = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a spec to its end and publish the result; repeat it to resume.

    With --then-rollout the result is deployed beside the stable version and its rollout begun. With --wait
    too, exit 0: promoted; 4: taken back, or paused by a gate; 5: not over in time, or without a verdict.
    """
    from train_jobs import driver, planning, sft
    from train_jobs.spec_files import load_spec

    settings = Settings.load(root)
    spec = load_spec(file, overrides or [], settings)
    todo = planning.plan(spec, settings)
    closing = _closing(then_rollout, wait, todo, settings)
    following = closing.plan() if closing else []
    lines = [*([] if todo.is_done else _plan_lines(todo)), *following]
    if lines and not output.confirm(lines, yes=yes, dry_run=dry_run):
        again = ["linnet train run", file, *(overrides or []), *_then(then_rollout, wait), "--yes"]
        _show_plan(todo, following, settings, " ".join(again), as_json=as_json)
        return
    result = driver.train(spec, settings)
    if closing is None:
        sft.show(result, as_json=as_json)
    else:
        closing.carry_out(result, settings, as_json=as_json)


@app.command("list")
def list_command(root: RootOption = None, as_json: JsonFlag = False) -> None:
    """List runs, the newest first."""
    from cluster.state.database import open_database
    from cluster.state.tables import utc_now
    from train_jobs import runs

    with open_database(Settings.load(root).state_url).snapshot() as session:
        rows = [runs.as_dict(row, utc_now()) for row in runs.all_runs(session)]
    columns = ["run", "status", "reason", "step", "total_steps", "attempts", "published", "started_at"]
    output.emit_list(rows, columns, as_json=as_json, empty="No runs yet. `linnet train run FILE` starts one.")


@app.command("show")
def show_command(run: RunName, root: RootOption = None, as_json: JsonFlag = False) -> None:
    """Show how far a run is, its attempts, and what failures cost."""
    from train_jobs import report

    told = report.describe(run, Settings.load(root))
    if as_json:
        output.emit(told)
        return
    for line in report.render(told):
        sys.stdout.write(line + "\n")


@app.command("audit")
def audit_command(run: RunName, root: RootOption = None, as_json: JsonFlag = False) -> int:
    """Prove that no sample was lost or trained twice in the committed steps, or list which were."""
    from cluster.errors import ExitCode
    from train_jobs import audit

    found = audit.audit_run(run, Settings.load(root))
    if as_json:
        output.emit(found.model_dump(mode="json"))
        return int(ExitCode.DONE if found.is_proven else ExitCode.FAILED)
    for line in audit.render(found):
        sys.stdout.write(line + "\n")
    audit.require_proven(found)
    return int(ExitCode.DONE)


@app.command("logs")
def logs_command(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    root: RootOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the driver's log and, after it, each worker's log of the last attempt."""
    from train_jobs import run_logs

    settings = Settings.load(root)
    if as_json:
        output.emit_list(run_logs.collect(run, settings), ["log", "line"], as_json=True)
        return
    for entry in run_logs.stream(run, settings) if follow else run_logs.collect(run, settings):
        sys.stdout.write(f"{Path(entry['log']).stem}  {entry['line']}\n")
        sys.stdout.flush()


@app.command("cancel")
def cancel_command(
    run: RunName,
    root: RootOption = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Stop a run; what it committed is kept, and the same command resumes it."""
    from train_jobs import cancelling

    settings = Settings.load(root)
    target = cancelling.find(run, settings)
    applied = output.confirm(
        [f"stop the run {run}, driven by pid {target.pid} on {target.host}"], yes=yes, dry_run=dry_run
    )
    status = cancelling.cancel(run, settings) if applied else None
    output.emit_mutation(
        target=f"run/{run}",
        applied=applied,
        dry_run=dry_run,
        detail={"status": status} if status else {"pid": target.pid, "host": target.host},
        as_json=as_json,
        sentence=f"The run {run} is cancelled." if applied else "Nothing was done.",
        next_command=f"linnet train show {run}",
    )


def _closing(policy: Path | None, wait: str | None, todo: Plan, settings: Settings) -> Closing | None:
    from train_jobs import closing

    if policy is None:
        if wait is not None:
            raise UsageError("`--wait` waits for a rollout.", hint="Add --then-rollout FILE.")
        return None
    return closing.prepare(policy, wait, todo, settings)


def _then(policy: Path | None, wait: str | None) -> list[str]:
    return [
        *(["--then-rollout", str(policy)] if policy is not None else []),
        *(["--wait", wait] if wait is not None else []),
    ]


def _show_plan(todo: Plan, following: list[str], settings: Settings, again: str, *, as_json: bool) -> None:
    from train_jobs import room

    checked = not todo.is_done and room.was_checked(todo, settings)
    promised = "" if todo.is_done else f"; {_promise(todo.spec.run, checked=checked)}"
    output.emit_mutation(
        target=f"run/{todo.spec.run}",
        applied=False,
        dry_run=True,
        detail={**todo.model_dump(mode="json"), "room_checked": checked, "then_rollout": following},
        as_json=as_json,
        sentence=f"Nothing was done{promised}.",
        next_command=again,
    )


def _promise(run: str, *, checked: bool) -> str:
    if checked:
        return f"the run {run} can be trained, and the cluster has room for it"
    return (
        f"the run {run} can be trained where there is room: no cluster stands whose CPUs and memory to check"
    )


def _plan_lines(todo: Plan) -> list[str]:
    spec = todo.spec
    begun = f"from the checkpoint of step {todo.resume_step}" if todo.resume_step else "from the start"
    end = f"to step {spec.max_steps}" if spec.max_steps else f"for {spec.num_train_epochs:g} epochs"
    lines = [
        f"train {spec.model} as the run {spec.run}, {begun} {end}",
        f"{spec.slots} workers of {spec.threads_per_worker} threads, "
        f"{spec.global_batch_size} samples a step, data {spec.data.train}",
    ]
    return [*lines, f"publish {', '.join(todo.missing)}"] if todo.missing else lines
