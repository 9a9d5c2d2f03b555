from __future__ import annotations

import pytest

from cluster.state import declarations
from cluster.state.database import open_database


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def seen(database, *models):
    with database.snapshot() as session:
        return [declarations.last_seen(session, model) for model in models]


def test_what_was_seen_last_counts_for_each_model(database):
    assert seen(database, "a") == [None]
    for model, sha256 in (("a", "1"), ("b", "2"), ("a", "3")):
        with database.transaction() as session:
            declarations.put(session, model, sha256)
    assert seen(database, "a", "b") == ["3", "2"]


def test_others_are_forgotten(database):
    with database.transaction() as session:
        declarations.put(session, "a", "1")
        declarations.put(session, "b", "2")
        declarations.keep(session, ["b"])
    assert seen(database, "a", "b") == [None, "2"]
    with database.transaction() as session:
        declarations.keep(session, [])
    assert seen(database, "b") == [None]
