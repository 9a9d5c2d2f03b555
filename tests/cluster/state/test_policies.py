from __future__ import annotations

import pytest
from sqlalchemy import text

from cluster.errors import ConflictError
from cluster.judging import Judging, Match, Shadow, TextChecks
from cluster.state import policies
from cluster.state.database import open_database
from cluster.state.tables import PolicyRow
from cluster.traffic import TrafficPolicy

JUDGING = Judging(
    rollout=7,
    match=(Match(header={"x-region": "eu"}), Match(key_prefix="beta-")),
    shadow=Shadow(sample=0.25, when="thin"),
    texts=TextChecks(banned=("darn",), scripts=("latin",), per_second=5),
)


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def policy(revision, judging=None):
    return TrafficPolicy(model="m", revision=revision, stable="v1", candidate="v2", weight=5, judging=judging)


def put(database, *given):
    with database.transaction() as session:
        for one in given:
            policies.put(session, one)


def test_what_is_judged_is_stored_with_the_policy_and_goes_with_it(database):
    put(database, policy(1, JUDGING))
    with database.snapshot() as session:
        assert policies.get(session, "m") == policy(1, JUDGING)
    put(database, policy(2))
    with database.snapshot() as session:
        assert policies.get(session, "m") == policy(2)


def test_none_is_null_in_the_table(database):
    put(database, policy(1))
    with database.snapshot() as session:
        assert session.execute(text("SELECT judging IS NULL FROM policies")).scalar() == 1


def test_what_is_not_asked_for_is_not_stored_so_that_older_gateways_read_it(database):
    with database.transaction() as session:
        policies.put(session, policy(1, Judging(rollout=3)))
        assert set(session.get_one(PolicyRow, "m").judging) == {"rollout", "match", "texts"}
        assert policies.get(session, "m").judging == Judging(rollout=3)


def test_a_revision_follows_the_one_before(database):
    put(database, policy(1))
    for revision in (1, 3):
        with pytest.raises(ConflictError, match="revision 1"):
            put(database, policy(revision))
