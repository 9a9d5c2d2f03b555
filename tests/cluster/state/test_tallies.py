from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from cluster.state import tallies
from cluster.state.database import open_database
from cluster.tally import Pairs, Sketch, Tally, VersionTally

START = datetime(2026, 1, 1)
TALLY = Tally(
    versions={
        "v1": VersionTally(
            counts={"requests": 3, "errors": 1},
            sketches={"ttft": {"p0": Sketch(zeros=1, buckets=((-3, 2), (5, 1)))}},
        )
    },
    pairs={"refusal": Pairs(n=2, both=1, only_candidate=1)},
    shadow_requests=2,
)


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


def put(database, gateway="a", model="m", revision=1, seconds=0.0, tally=TALLY):
    with database.transaction() as session:
        tallies.put(
            session,
            gateway=gateway,
            model=model,
            revision=revision,
            applied_at=START + timedelta(seconds=seconds),
            seen_at=START + timedelta(seconds=seconds),
            tally=tally.model_dump(mode="json"),
        )


def found(database, model="m", **wanted):
    with database.snapshot() as session:
        return [(row.revision, row.gateway) for row in tallies.of_model(session, model, **wanted)]


def test_a_tally_comes_back_as_it_was(database):
    put(database)
    with database.snapshot() as session:
        [row] = tallies.of_model(session, "m")
    assert row.tally == TALLY
    assert (row.gateway, row.model, row.revision) == ("a", "m", 1)


def test_a_later_one_replaces_it_and_its_beginning_stays(database):
    put(database)
    put(database, seconds=5, tally=Tally(shadow_requests=9))
    with database.snapshot() as session:
        [row] = tallies.of_model(session, "m")
    assert row.tally == Tally(shadow_requests=9)
    assert (row.applied_at, row.seen_at) == (START, START + timedelta(seconds=5))


def test_those_of_a_model_are_by_revision_and_gateway_and_may_be_narrowed(database):
    for gateway, revision, seconds in (("b", 2, 10), ("a", 2, 20), ("a", 1, 30)):
        put(database, gateway, revision=revision, seconds=seconds)
    put(database, model="other")
    assert found(database) == [(1, "a"), (2, "a"), (2, "b")]
    assert found(database, revisions=[2]) == [(2, "a"), (2, "b")]
    assert found(database, revisions=[]) == []
    assert found(database, first=2) == [(2, "a"), (2, "b")]
    assert found(database, since=START + timedelta(seconds=20)) == [(1, "a"), (2, "a")]
    assert found(database, "other") == [(1, "a")]


def test_what_was_not_renewed_is_removed(database):
    for gateway, seconds in (("a", 10), ("b", 20)):
        put(database, gateway, seconds=seconds)
    with database.transaction() as session:
        tallies.prune(session, START + timedelta(seconds=20))
    assert found(database) == [(1, "b")]
