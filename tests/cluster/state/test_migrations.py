"""A database of an earlier version is brought up to date with what it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

import cluster.state
from cluster.state import controllers, declarations, looks, policies, tallies
from cluster.state.database import HEAD, Database, open_database
from cluster.state.tables import RolloutRow
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


def test_rollouts_from_before_they_were_judged_have_no_policy_and_no_step(url):
    before = migrate(url, "0006")
    with before.transaction() as session:
        session.execute(
            text(
                "INSERT INTO rollouts"
                " (model, candidate, stable, phase, reason, weight, started_at, updated_at)"
                " VALUES ('m', 'v2', 'v1', 'progressing', 'started', 10,"
                " '2026-01-01 00:00:00', '2026-01-02 00:00:00')"
            )
        )
    before.dispose()
    after = open_database(url)
    with after.snapshot() as session:
        row = session.get_one(RolloutRow, 1)
        assert (row.candidate, row.phase, row.weight) == ("v2", "progressing", 10.0)
        assert (row.spec, row.spec_sha256, row.progress) == (None, None, None)
        assert (row.steps, row.step, row.approved, row.looks) == (0, -1, -1, 0)
        assert looks.of_rollout(session, 1) == []
        assert controllers.current(session, "rollouts") is None
    after.dispose()


def test_of_rollouts_from_before_nothing_declared_is_known_nor_how_gateways_followed(url):
    before = migrate(url, "0007")
    with before.transaction() as session:
        session.execute(
            text(
                "INSERT INTO rollouts"
                " (model, candidate, stable, phase, reason, weight, started_at, updated_at)"
                " VALUES ('m', 'v2', 'v1', 'rolled_back', 'aborted', 0,"
                " '2026-01-01 00:00:00', '2026-01-02 00:00:00')"
            )
        )
    before.dispose()
    after = open_database(url)
    with after.snapshot() as session:
        assert session.get_one(RolloutRow, 1).followed is None
        assert declarations.last_seen(session, "m") is None
    after.dispose()


def test_each_revision_follows_the_one_before_it_and_the_last_is_the_codes(url):
    folder = Path(cluster.state.__file__).parent / "migrations" / "versions"
    revisions = [path.name[1:5] for path in sorted(folder.glob("v*.py"))]
    assert revisions == [f"{number:04}" for number in range(1, len(revisions) + 1)]
    assert revisions[-1] == HEAD
    for revision in revisions:
        migrate(url, revision).dispose()
    open_database(url).dispose()
