"""How far receivers outside have been told of rollouts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table of deliveries."""
    op.create_table(
        "rollout_deliveries",
        sa.Column("receiver", sa.String(64), primary_key=True),
        sa.Column("rollout_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("settled", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("not_before", sa.DateTime),
        sa.Column("given_up", sa.Integer, nullable=False),
        sa.Column("last_error", sa.Text, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
    )
