"""Who may act for all: a controller takes an epoch, and only the newest epoch's writes are accepted.

No clock decides: one that was thought dead and comes back finds its epoch taken and writes nothing.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from cluster.errors import ConflictError
from cluster.state.tables import ControllerRow, utc_now


def take(session: Session, name: str, holder: str) -> int:
    """Become the one that acts as `name`; returns the epoch to write with."""
    row = session.get(ControllerRow, name, with_for_update=True)
    if row is None:
        row = ControllerRow(name=name, epoch=0)
        session.add(row)
    row.epoch, row.holder, row.taken_at = row.epoch + 1, holder, utc_now()
    session.flush()
    return row.epoch


def require(session: Session, name: str, epoch: int) -> None:
    """Raise ConflictError where another has taken over since; holds the row until the commit."""
    row = session.get(ControllerRow, name, with_for_update=True)
    if row is None or row.epoch != epoch:
        holder = row.holder if row else "nobody"
        raise ConflictError(
            f"`{holder}` acts as `{name}` now, with epoch {row.epoch if row else 0}; this one had {epoch}.",
            code="controller.superseded",
        )


def current(session: Session, name: str) -> ControllerRow | None:
    """The newest holder."""
    return session.get(ControllerRow, name)
