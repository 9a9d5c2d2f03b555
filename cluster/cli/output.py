"""What every verb prints: the JSON contract on stdout, tables for people, progress on stderr.

Lists are `{"as_of", "data"}`, mutations `{"target", "applied", "dry_run", "detail"}`, errors
`{"error": {"code", "message", "hint", "retryable"}}`.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import typer
import typer.core

from cluster.errors import LinnetError, UsageError

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Carry the plan out without asking.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]
RootOption = Annotated[str | None, typer.Option("--root", help="Storage root: a path, file:// or s3:// URL.")]


def new_app(help_text: str, *, list_verb: str | None = "list") -> typer.Typer:
    """A noun: a bare noun runs `list_verb`; unknown verbs and flags get a suggestion."""
    app = typer.Typer(
        help=help_text, no_args_is_help=list_verb is None, add_completion=False, rich_markup_mode=None
    )
    if list_verb is not None:
        app.callback(invoke_without_command=True)(_bare_noun(list_verb))
    return app


def _bare_noun(list_verb: str) -> Callable[..., Any]:
    def run(context: typer.Context, as_json: JsonFlag = False) -> Any:
        if context.invoked_subcommand is None:
            group = cast(typer.core.TyperGroup, context.command)
            return group.commands[list_verb].main(
                args=["--json"] if as_json else [],
                prog_name=f"{context.command_path} {list_verb}",
                standalone_mode=False,
            )
        if as_json:
            raise UsageError(
                "`--json` belongs to the verb.",
                code="usage.arguments",
                hint=f"Write it at the end: {context.command_path} {context.invoked_subcommand} --json",
            )
        return None

    return run


def emit(value: dict[str, Any]) -> None:
    """One JSON object on stdout; NaN and the infinities, which JSON does not know, are null."""
    sys.stdout.write(json.dumps(_strict(value), default=str, allow_nan=False) + "\n")


def emit_list(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str = "(none)"
) -> None:
    """Rows as the list contract, or as a table with the given columns."""
    if as_json:
        emit({"as_of": datetime.now(UTC).isoformat(timespec="seconds"), "data": list(rows)})
    elif not rows:
        sys.stdout.write(f"{empty}\n")
    else:
        table(columns, [[row.get(column, "") for column in columns] for row in rows])


def emit_mutation(
    *,
    target: str,
    applied: bool,
    dry_run: bool,
    detail: dict[str, Any],
    as_json: bool,
    sentence: str,
    next_command: str = "",
) -> None:
    """The result of a change: the mutation contract, or a sentence and the next command."""
    if as_json:
        emit({"target": target, "applied": applied, "dry_run": dry_run, "detail": detail})
        return
    sys.stdout.write(f"{sentence}\n")
    if next_command:
        sys.stdout.write(f"next: {next_command}\n")


def show_error(error: LinnetError, *, as_json: bool) -> None:
    """The error form: JSON on stdout where asked for, two lines on stderr otherwise."""
    if as_json:
        emit({"error": error.to_dict()})
    else:
        sys.stderr.write(error.render() + "\n")


def confirm(plan: Iterable[str], *, yes: bool, dry_run: bool) -> bool:
    """Show the plan on stderr and ask. True: carry it out; False: a dry run.

    Raises UsageError without a terminal and without `--yes`, and when a person says no.
    """
    for line in plan:
        progress(f"  {line}")
    if dry_run:
        return False
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            "This changes something and there is no terminal to ask on.",
            code="usage.not_confirmed",
            hint="Add --yes to carry it out, or --dry-run to see the plan alone.",
        )
    sys.stderr.write("Carry it out? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("Not confirmed; nothing was changed.", code="usage.not_confirmed")
    return True


def progress(line: str) -> None:
    """One line of progress on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain, aligned table on stdout: headings in capitals, no lines, copies well."""
    cells = [[_cell(value) for value in row] for row in rows]
    heads = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[i]) for line in (heads, *cells)) for i in range(len(heads))]
    for line in (heads, *cells):
        sys.stdout.write("  ".join(text.ljust(widths[i]) for i, text in enumerate(line)).rstrip() + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def human_bytes(size: float) -> str:
    """`269.1 MB`: powers of 1,000, one decimal."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
