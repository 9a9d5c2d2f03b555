"""Gateways count for judged rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Policies without `judging` go on as they are."""
    op.add_column("policies", sa.Column("judging", sa.JSON))
    op.create_table(
        "tallies",
        sa.Column("gateway", sa.String(32), primary_key=True),
        sa.Column("model", sa.String(128), primary_key=True, index=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("applied_at", sa.DateTime, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
        sa.Column("tally", sa.JSON, nullable=False),
    )
