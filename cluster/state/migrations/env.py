"""Alembic's entry: migrate over the engine that the database opened."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Engine

from cluster.state.tables import Base


def run() -> None:
    """Apply the migrations in one transaction."""
    engine: Engine = context.config.attributes["engine"]
    with engine.begin() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        context.run_migrations()


run()
