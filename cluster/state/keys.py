"""API keys: added and revoked, each with an event; the secrets are not here, only their hashes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cluster.errors import ConflictError, NotFoundError, did_you_mean, one_of
from cluster.keys import MARK, ApiKey, Grant, Limits, digest, prefix
from cluster.state import events
from cluster.state.tables import KeyRow, utc_now

_UNREVOKED = select(KeyRow).where(KeyRow.revoked_at.is_(None)).order_by(KeyRow.id)


def everything(session: Session) -> list[KeyRow]:
    """All keys, revoked and expired ones too, oldest first."""
    return list(session.scalars(select(KeyRow).order_by(KeyRow.id)))


def valid(session: Session) -> list[ApiKey]:
    """Keys that were not revoked. Expired ones are among them: that depends on the moment of use."""
    return [_record(row) for row in session.scalars(_UNREVOKED)]


def mark(session: Session) -> tuple[int, ...]:
    """Differs after every change of the table; much cheaper than reading it."""
    newest = func.coalesce(func.max(KeyRow.id), 0)
    found = session.execute(select(newest, func.count(KeyRow.id), func.count(KeyRow.revoked_at)))
    return tuple(found.one())


def add(session: Session, grant: Grant, secret: str, actor: str | None = None) -> KeyRow:
    """Store a key's grant and the hash of its secret.

    Raises ConflictError when a key that is not revoked has the name.
    """
    require_free(session, grant.name)
    row = KeyRow(
        name=grant.name,
        prefix=prefix(secret),
        digest=digest(secret.encode()).hex(),
        models=list(grant.models),
        admin=grant.admin,
        expires_at=grant.expires_at,
        **grant.limits.model_dump(),
    )
    session.add(row)
    try:
        session.flush()
    except IntegrityError:
        # Another command took the name after the look above.
        raise _taken(grant.name) from None
    events.append(
        session,
        kind="key.created",
        subject=f"keys/{grant.name}",
        sentence=f"key {grant.name} ({row.prefix}) created",
        actor=actor,
        detail=grant.model_dump(mode="json"),
    )
    return row


def require_free(session: Session, name: str) -> None:
    """Raise ConflictError when a key that is not revoked has the name."""
    if session.scalar(_UNREVOKED.where(KeyRow.name == name)) is not None:
        raise _taken(name)


def find(session: Session, wanted: str) -> KeyRow:
    """The one key that is not revoked with this name, or, where no name fits, with this prefix.

    Raises NotFoundError, or ConflictError for a prefix that two keys share and for a revoked key.
    """
    rows, start = session.scalars(_UNREVOKED).all(), _start(wanted)
    found = [row for row in rows if row.name == wanted] or [row for row in rows if row.prefix == start]
    if not found:
        raise _not_found(session, wanted, rows)
    if len(found) > 1:
        raise ConflictError(
            f"Several keys begin with `{start}`: {one_of(row.name for row in found)}.",
            code="key.ambiguous",
            hint="Give the name.",
        )
    return found[0]


def revoke(session: Session, key_id: int, *, reason: str, actor: str | None = None) -> None:
    """End a key for good; its name is free again.

    Raises ConflictError when somebody else has revoked it meanwhile.
    """
    row = session.get_one(KeyRow, key_id, with_for_update=True, populate_existing=True)
    if row.revoked_at is not None:
        raise _revoked(row.name)
    row.revoked_at = utc_now()
    session.flush()
    events.append(
        session,
        kind="key.revoked",
        subject=f"keys/{row.name}",
        sentence=f"key {row.name} ({row.prefix}) revoked",
        reason=reason,
        actor=actor,
    )


def grant_of(row: KeyRow) -> Grant:
    """What a stored key is made for."""
    limits = Limits.model_validate({name: getattr(row, name) for name in Limits.model_fields})
    return Grant(
        name=row.name,
        models=tuple(row.models),
        admin=row.admin,
        limits=limits,
        expires_at=row.expires_at,
    )


def _record(row: KeyRow) -> ApiKey:
    return ApiKey(id=row.id, digest=bytes.fromhex(row.digest), grant=grant_of(row))


def _start(wanted: str) -> str:
    """A prefix as `list` shows it, also of a secret that somebody has found."""
    return prefix(wanted) if wanted.startswith(MARK) else wanted


def _taken(name: str) -> ConflictError:
    return ConflictError(
        f"There is a key `{name}` already.",
        code="key.exists",
        hint=f"Take another name, or end that one first: linnet serve keys revoke {name}",
    )


def _revoked(wanted: str) -> ConflictError:
    return ConflictError(
        f"The key `{wanted}` is revoked already.",
        code="key.revoked",
        hint="`linnet serve keys` lists all keys.",
    )


def _not_found(session: Session, wanted: str, rows: Sequence[KeyRow]) -> NotFoundError | ConflictError:
    start = _start(wanted)
    if any(wanted == row.name or start == row.prefix for row in everything(session)):
        return _revoked(wanted)
    names = [row.name for row in rows]
    return NotFoundError(
        f"There is no key `{wanted}`.{did_you_mean(wanted, names)}",
        code="key.unknown",
        hint=f"Keys: {one_of(names)}.",
    )
