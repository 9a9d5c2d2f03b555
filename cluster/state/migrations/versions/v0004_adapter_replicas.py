"""A replica may serve several versions: its own, and adapters on top of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table anew, for SQLite changes no primary key; replicas at work renew their rows."""
    op.drop_index("ix_replicas_model", table_name="replicas")
    op.rename_table("replicas", "replicas_before")
    op.create_table(
        "replicas",
        sa.Column("replica", sa.String(256), primary_key=True),
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False, index=True),
        sa.Column("base", sa.String(128)),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
    )
    columns = "replica, version, model, status, detail, started_at, seen_at"
    op.execute(f"INSERT INTO replicas ({columns}) SELECT {columns} FROM replicas_before")
    op.drop_table("replicas_before")
