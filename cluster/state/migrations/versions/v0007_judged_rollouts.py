"""Rollouts that are judged: their policy, their looks, and who may act."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Rollouts that were moved by hand have no policy and no step."""
    op.add_column("rollouts", sa.Column("spec", sa.JSON))
    op.add_column("rollouts", sa.Column("spec_sha256", sa.String(64)))
    op.add_column("rollouts", sa.Column("steps", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rollouts", sa.Column("step", sa.Integer, nullable=False, server_default="-1"))
    op.add_column("rollouts", sa.Column("approved", sa.Integer, nullable=False, server_default="-1"))
    op.add_column("rollouts", sa.Column("looks", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rollouts", sa.Column("progress", sa.JSON))
    op.create_table(
        "looks",
        sa.Column("rollout_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
        sa.Column("decision_id", sa.Integer),
    )
    op.create_table(
        "controllers",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("taken_at", sa.DateTime, nullable=False),
    )
