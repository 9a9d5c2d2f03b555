from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from cluster.judging import Judging
from cluster.state import policies, tallies
from cluster.state.database import open_database
from cluster.tally import Tally
from cluster.traffic import TrafficPolicy
from serve_apps.gateway.policies import Applied, PolicyCache
from serve_apps.gateway.tally import LookedAt, NotLookedAt
from serve_apps.gateway.tally_writer import TallyWriter
from tests.serve_apps.gateway.servers import eventually

START = datetime(2026, 1, 1)
DROPPED = NotLookedAt("v1")


def policy(revision, weight=10.0, *, judged=True):
    judging = Judging(rollout=1) if judged else None
    return TrafficPolicy(
        model="m", revision=revision, stable="v1", candidate="v2", weight=weight, judging=judging
    )


class Cache:
    """A policy cache that a test sets."""

    def __init__(self):
        self.now = None

    def applied(self, _model):
        return self.now


class Written:
    """A writer with a clock, and what it has written; `beat` is one time of it, some seconds later."""

    def __init__(self, database):
        self.database = database
        self.cache = Cache()
        self.seconds = 0.0
        self.writer = TallyWriter(database, self.cache, ["m"], clock=self.at)
        self.writer._started = True

    def at(self):
        return START + timedelta(seconds=self.seconds)

    def apply(self, policy):
        self.cache.now = Applied(policy, self.at())

    def beat(self, after=0.0):
        self.seconds += after
        self.writer._once()

    def rows(self):
        with self.database.snapshot() as session:
            rows = tallies.of_model(session, "m")
        return {row.revision: row for row in rows if row.gateway == self.writer.incarnation}

    def dropped(self):
        """How many texts each revision has counted as dropped."""
        return {
            revision: sum(version.counts["texts_dropped"] for version in row.tally.versions.values())
            for revision, row in self.rows().items()
        }


@pytest.fixture
def written(database):
    return Written(database)


def test_a_revision_is_told_at_once_with_the_time_since_which_it_holds(written):
    written.beat()
    assert written.rows() == {}
    written.apply(policy(1))
    written.beat(0.25)
    [row] = written.rows().values()
    assert (row.revision, row.applied_at, row.seen_at) == (1, START, written.at())
    assert (row.gateway, row.tally) == (written.writer.incarnation, Tally())
    written.apply(policy(2, judged=False))
    written.beat(0.1)
    assert written.rows()[2].seen_at == written.at()


def test_a_policy_that_was_never_stored_has_no_row(written):
    written.apply(TrafficPolicy(model="m", revision=0, stable="v1"))
    written.beat()
    assert written.rows() == {}


def test_changes_are_written_each_second_and_without_any_a_judged_one_is_renewed_now_and_then(written):
    written.apply(policy(1))
    written.beat()
    written.writer.saw(policy(1), DROPPED)
    written.beat(0.9)
    assert written.dropped() == {1: 0}
    written.beat(0.1)
    assert written.dropped() == {1: 1}
    seen_at = written.at()
    written.beat(9.9)
    assert written.rows()[1].seen_at == seen_at
    written.beat(0.1)
    assert written.rows()[1].seen_at == seen_at + timedelta(seconds=10)


def test_one_that_is_not_judged_is_written_once(written):
    written.apply(policy(1, judged=False))
    written.beat()
    written.beat(1000)
    assert written.rows()[1].seen_at == START


def test_what_ends_under_an_old_revision_counts_for_it_for_two_minutes(written):
    written.apply(policy(1))
    written.beat()
    written.apply(policy(2))
    written.beat(1)
    written.writer.saw(policy(1), DROPPED)
    written.beat(119)
    written.writer.saw(policy(1), DROPPED)
    written.beat(1)
    written.writer.saw(policy(1), DROPPED)
    written.beat(1)
    assert written.dropped() == {1: 2, 2: 0}


def test_a_revision_that_came_and_went_between_two_beats_is_not_lost(written):
    written.apply(policy(1))
    written.beat()
    written.writer.saw(policy(2), DROPPED)
    written.apply(policy(3))
    written.beat(0.25)
    assert written.dropped() == {1: 0, 2: 1, 3: 0}


def test_while_the_database_takes_nothing_everything_is_kept(written, caplog):
    written.apply(policy(1))
    written.beat()
    with written.database.transaction() as session:
        session.execute(text("ALTER TABLE tallies RENAME TO hidden"))
    for _ in range(3):
        written.writer.saw(policy(1), DROPPED)
        written.seconds += 2
        written.writer._refresh()
    assert caplog.text.count("the tallies of judged rollouts are stale") == 1
    with written.database.transaction() as session:
        session.execute(text("ALTER TABLE hidden RENAME TO tallies"))
    written.beat(0.25)
    assert written.dropped() == {1: 3}


def test_rows_of_gateways_that_are_gone_are_removed_a_day_later(written, database):
    with database.transaction() as session:
        for gateway, ago in (("gone", 25), ("lately", 23)):
            at = START - timedelta(hours=ago)
            tallies.put(session, gateway=gateway, model="m", revision=1, applied_at=at, seen_at=at, tally={})
    written.apply(policy(2))
    written.beat()
    with database.snapshot() as session:
        assert {row.gateway for row in tallies.of_model(session, "m")} == {
            "lately",
            written.writer.incarnation,
        }


@pytest.fixture(scope="module")
def one_database(tmp_path_factory):
    database = open_database(f"sqlite:///{tmp_path_factory.mktemp('tallies')}/linnet.db")
    yield database
    database.dispose()


STEPS = st.tuples(st.sampled_from(["saw", "policy", "beat"]), st.integers(1, 3), st.floats(0, 3))


@settings(max_examples=25)
@given(steps=st.lists(STEPS, max_size=30))
def test_each_revision_has_what_was_routed_by_it(one_database, steps):
    written = Written(one_database)
    newest, expected = 1, {1: 0}
    written.apply(policy(1))
    written.beat()
    for kind, number, seconds in steps:
        if kind == "policy":
            newest += 1
            expected[newest] = 0
            written.apply(policy(newest))
            written.beat()
        elif kind == "saw":
            routed_by = max(1, newest - number + 1)
            written.writer.saw(policy(routed_by), DROPPED)
            expected[routed_by] += 1
        else:
            written.beat(seconds)
    written.beat(1)
    assert written.dropped() == expected


def test_what_is_left_is_written_at_the_end(database):
    async def scenario():
        with database.transaction() as session:
            policies.put(session, policy(1))
        cache = PolicyCache(database, ["m"], interval_s=0.01)
        writer = TallyWriter(database, cache, ["m"], interval_s=60)
        await writer.stop()
        await cache.start()
        await writer.start()
        await asyncio.to_thread(eventually, lambda: cache.applied("m"), "the policy is known")
        writer.saw(policy(1), LookedAt("v2", {"refusal": True}))
        await writer.stop()
        await writer.stop()
        await cache.stop()

    asyncio.run(scenario())
    with database.snapshot() as session:
        [row] = tallies.of_model(session, "m")
    assert row.tally.versions["v2"].counts == {"texts": 1, "refusal": 1}


def test_two_lives_of_a_gateway_have_two_names(database):
    names = {TallyWriter(database, Cache(), ["m"]).incarnation for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) == 16 for name in names)
