"""`linnet serve keys`: API keys, their rights and their limits."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from cluster import keys
from cluster.cli import output
from cluster.cli.output import DryRunFlag, JsonFlag, RootOption, YesFlag
from cluster.config import Settings
from cluster.errors import NotFoundError, UsageError, did_you_mean, one_of
from cluster.keys import Grant, Limits
from cluster.state.database import Database, open_database

if TYPE_CHECKING:
    from cluster.state.tables import KeyRow

app = output.new_app("API keys of the gateways: who may use which models, and how much.")

_COLUMNS = [
    "name",
    "prefix",
    "status",
    "models",
    "admin",
    "requests_per_minute",
    "tokens_per_minute",
    "max_concurrent",
    "created_at",
    "expires_at",
]
_LIST = "linnet serve keys list"


def _limit(flag: str, text: str) -> Any:
    return typer.Option(flag, min=1, max=keys.MAX_LIMIT, help=f"{text} No limit without it.")


@app.command("list")
def list_keys(as_json: JsonFlag = False, root: RootOption = None) -> None:
    """List all keys, revoked and expired ones too; their secrets are not stored."""
    from cluster.state import keys as rows

    with _open(root).snapshot() as session:
        found = [_shown(row, as_json=as_json) for row in rows.everything(session)]
    output.emit_list(
        found, _COLUMNS, as_json=as_json, empty="No key yet. next: linnet serve keys create NAME"
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who or what will use the key.")],
    *,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A model it may use; repeat for more. All without it.")
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may read /metrics too.")] = False,
    requests_per_minute: Annotated[
        int | None, _limit("--requests-per-minute", "Requests that each gateway replica takes in a minute.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, _limit("--tokens-per-minute", "Tokens of prompts and answers in a minute.")
    ] = None,
    max_concurrent: Annotated[
        int | None, _limit("--max-concurrent", "Requests that may be under way at a time.")
    ] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="Lifetime: 90m, 12h, 30d, 8w.")] = None,
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """Make a key and show its secret, this once."""
    from cluster.state import keys as rows

    limits = Limits(
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_concurrent=max_concurrent,
    )
    grant = _grant(name, model or [], limits, admin=admin, expires=expires)
    database = _open(root)
    _require_models(grant, root)
    with database.snapshot() as session:
        rows.require_free(session, grant.name)
    applied = output.confirm([_plan(grant)], yes=yes, dry_run=dry_run)
    secret = keys.new_secret() if applied else None
    if secret is not None:
        with database.transaction() as session:
            rows.add(session, grant, secret)
    output.emit_mutation(
        target=grant.name,
        applied=applied,
        dry_run=dry_run,
        detail={"key": secret, **grant.model_dump(mode="json"), "expires_at": _utc(grant.expires_at)},
        as_json=as_json,
        sentence=f"Key {name} created. Its secret, shown this once:\n{secret}"
        if secret
        else f"Would {_plan(grant)}.",
        next_command=_LIST if applied else "",
    )


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="NAME_OR_PREFIX", help="As `list` shows them.")],
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the event.")] = "by hand",
    yes: YesFlag = False,
    dry_run: DryRunFlag = False,
    as_json: JsonFlag = False,
    root: RootOption = None,
) -> None:
    """End a key for good; gateways refuse it within a second."""
    from cluster.state import keys as rows

    database = _open(root)
    with database.snapshot() as session:
        row = rows.find(session, key)
    applied = output.confirm([f"revoke the key {row.name} ({row.prefix})"], yes=yes, dry_run=dry_run)
    if applied:
        with database.transaction() as session:
            rows.revoke(session, row.id, reason=reason)
    output.emit_mutation(
        target=row.name,
        applied=applied,
        dry_run=dry_run,
        detail={"prefix": row.prefix, "reason": reason},
        as_json=as_json,
        sentence=f"Key {row.name} revoked." if applied else f"Would revoke the key {row.name}.",
        next_command=_LIST if applied else "",
    )


def _open(root: str | None) -> Database:
    return open_database(Settings.load(root).state_url)


def _grant(name: str, models: list[str], limits: Limits, *, admin: bool, expires: str | None) -> Grant:
    from cluster.state.tables import utc_now

    ends = None if expires is None else keys.expiry(expires, utc_now())
    try:
        return Grant(
            name=name, models=tuple(dict.fromkeys(models)), admin=admin, limits=limits, expires_at=ends
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"`{first['input']}` does not do for a key: {first['msg'].removeprefix('Value error, ')}.",
            code="key.invalid",
            hint="A name is up to 64 letters, digits, dots, dashes and underscores; a model is named alone.",
        ) from None


def _require_models(grant: Grant, root: str | None) -> None:
    if not grant.models:
        return
    from cluster.registry import ModelStore
    from serve_apps.endpoints import known_models

    store = ModelStore.open(Settings.load(root))
    with store.database.snapshot() as session:
        known = {*store.models(), *known_models(session)}
    for model in grant.models:
        if model not in known:
            raise NotFoundError(
                f"There is no model `{model}`.{did_you_mean(model, known)}",
                code="key.unknown_model",
                hint=f"Models: {one_of(known)}.",
            )


def _plan(grant: Grant) -> str:
    limits = [f"{value} {name}" for name, value in grant.limits if value is not None]
    told = [
        f"for {', '.join(grant.models) or 'all models'}",
        *(["with admin rights"] if grant.admin else []),
        f"limits: {', '.join(limits) or 'none'}",
        f"until {grant.expires_at:%Y-%m-%d %H:%M} UTC" if grant.expires_at else "without an end",
    ]
    return f"create the key {grant.name}: {'; '.join(told)}"


def _shown(row: KeyRow, *, as_json: bool) -> dict[str, Any]:
    cells = {column: getattr(row, column) for column in _COLUMNS if column != "status"}
    if as_json:
        times = {name: _utc(getattr(row, name)) for name in ("created_at", "expires_at", "revoked_at")}
        return {**cells, **times, "status": _status(row)}
    people = {"models": row.models or "all", "admin": "yes" if row.admin else ""}
    return {**cells, **people, "status": _status(row)}


def _status(row: KeyRow) -> str:
    from cluster.state.tables import utc_now

    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= utc_now() else "valid"


def _utc(time: datetime | None) -> str | None:
    return time.replace(tzinfo=UTC).isoformat(timespec="seconds") if time else None
