"""Aliases: read, and moved by compare-and-swap inside a transaction, each move an event."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from cluster.errors import ConflictError
from cluster.state import events
from cluster.state.tables import AliasRow, utc_now

ABSENT = "(absent)"


def get(session: Session, model: str, alias: str) -> str | None:
    """The version an alias points to, or None."""
    row = session.get(AliasRow, (model, alias))
    return row.version if row else None


def of_model(session: Session, model: str) -> dict[str, str]:
    """All aliases of a model."""
    rows = session.scalars(select(AliasRow).where(AliasRow.model == model).order_by(AliasRow.alias))
    return {row.alias: row.version for row in rows}


def move(
    session: Session,
    model: str,
    alias: str,
    version: str | None,
    *,
    expected: str | None,
    reason: str,
    actor: str | None = None,
) -> None:
    """Point `model@alias` at `version` (None removes it) if it still points at `expected`.

    Raises ConflictError when somebody moved it in between; then nothing has changed.
    """
    row = session.get(AliasRow, (model, alias), with_for_update=True)
    found = row.version if row else None
    if found != expected:
        raise ConflictError(
            f"`{model}@{alias}` points at {found or ABSENT}, expected {expected or ABSENT}.",
            code="alias.moved",
            hint="Look again (`linnet models show`) and repeat the command.",
            retryable=True,
        )
    if found == version:
        return
    _write(session, row, model, alias, version)
    events.append(
        session,
        kind="alias.moved",
        subject=f"{model}@{alias}",
        sentence=f"{model}@{alias} moved from {found or ABSENT} to {version or ABSENT}",
        reason=reason,
        actor=actor,
        detail={"from": found, "to": version},
    )


def _write(session: Session, row: AliasRow | None, model: str, alias: str, version: str | None) -> None:
    if row is None:
        session.add(AliasRow(model=model, alias=alias, version=version, revision=1))
    elif version is None:
        session.delete(row)
    else:
        row.version, row.revision, row.updated_at = version, row.revision + 1, utc_now()
    session.flush()
