"""Receipts of lost replicas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table of losses."""
    op.create_table(
        "replica_losses",
        sa.Column("replica", sa.String(256), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False, index=True),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("signal", sa.String(32), nullable=False),
        sa.Column("heard_at", sa.DateTime, nullable=False),
        sa.Column("detected_at", sa.DateTime, nullable=False),
        sa.Column("isolated_at", sa.DateTime, nullable=False),
        sa.Column("recovered_at", sa.DateTime),
        sa.Column("replaced_by", sa.String(256)),
        sa.Column("load_s", sa.Float),
        sa.Column("prove_s", sa.Float),
        sa.Column("retried", sa.Integer, nullable=False),
        sa.Column("continued", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
    )
