"""Which declared rollouts a controller has seen; how gateways followed the end of a rollout."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Nothing declared has been seen yet: what was begun before is found by its rollout."""
    op.create_table(
        "declarations",
        sa.Column("model", sa.String(128), primary_key=True),
        sa.Column("spec_sha256", sa.String(64), nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
    )
    op.add_column("rollouts", sa.Column("followed", sa.JSON))
