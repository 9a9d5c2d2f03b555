"""A database of an earlier version is brought up to date with what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

import cluster.state
from cluster.state import policies, tallies
from cluster.state.database import Database, open_database
from cluster.traffic import TrafficPolicy


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/linnet.db"


def migrate(url: str, revision: str) -> Database:
    """A database as it was at a revision."""
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(Path(cluster.state.__file__).parent / "migrations"))
    config.set_main_option("sqlalchemy.url", url)
    config.attributes["engine"] = database._engine
    command.upgrade(config, revision)
    return database


def test_policies_from_before_they_were_judged_stay_as_they_are(url):
    before = migrate(url, "0004")
    with before.transaction() as session:
        session.execute(
            text(
                "INSERT INTO policies (model, revision, stable, candidate, weight, updated_at)"
                " VALUES ('m', 4, 'v1', 'v2', 12.5, '2026-01-01 00:00:00')"
            )
        )
    before.dispose()
    after = open_database(url)
    with after.snapshot() as session:
        assert policies.get(session, "m") == TrafficPolicy(
            model="m", revision=4, stable="v1", candidate="v2", weight=12.5
        )
        assert tallies.of_model(session, "m") == []
    after.dispose()
