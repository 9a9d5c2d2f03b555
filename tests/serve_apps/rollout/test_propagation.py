from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from cluster.state import tallies
from cluster.state.tables import DecisionRow, RolloutRow
from serve_apps.rollout import propagation
from serve_apps.rollout.propagation import Routing, followed
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL

NOON = datetime(2026, 11, 22, 12)


def at(second: float) -> datetime:
    return NOON + timedelta(seconds=second)


def routing(gateway: str, revision: int, applied: float, seen: float = 0.0) -> Routing:
    return Routing(gateway, revision, at(applied), at(seen))


def test_the_last_gateway_counts():
    known = [
        *(routing(gateway, 3, -60) for gateway in ("g1", "g2")),
        routing("g1", 4, 0.2, 5),
        routing("g2", 4, 0.9, 5),
    ]
    found = followed(known, 7, 4, NOON)
    assert (found.followed, found.gateways, found.seconds) == (2, 2, 0.9)
    assert propagation.in_words(found) == (
        "decided 2026-11-22 12:00:00, in force at 2 of 2 gateways 0.90 s later"
    )


def test_one_that_came_later_or_was_gone_before_took_no_time():
    known = [
        routing("g1", 3, -60),
        routing("gone", 3, -600, -300),
        routing("g1", 4, 0.3, 5),
        routing("new", 4, 900, 905),
    ]
    found = followed(known, 7, 4, NOON)
    assert (found.followed, found.gateways, found.seconds) == (1, 1, 0.3)


def test_one_that_has_skipped_the_revision_has_followed_and_one_that_has_not_is_told():
    known = [routing("g1", 3, -60), routing("g2", 3, -60), routing("g1", 5, 2, 5)]
    found = followed(known, 7, 4, NOON)
    assert (found.followed, found.gateways, found.seconds) == (1, 2, 2.0)
    assert "1 of 2 gateways" in propagation.in_words(found)


def test_without_rows_nothing_is_known():
    found = followed([], 7, 4, NOON)
    assert (found.gateways, found.applied_at, found.seconds) == (0, None, None)
    assert propagation.in_words(found) == "decided 2026-11-22 12:00:00"


@given(
    st.lists(
        st.builds(
            routing,
            st.sampled_from(["g1", "g2", "g3"]),
            st.integers(1, 6),
            st.integers(-100, 100),
            st.integers(-100, 100),
        )
    )
)
def test_it_never_counts_more_than_there_were_and_the_order_of_rows_says_nothing(known):
    found = followed(known, 1, 4, NOON)
    assert 0 <= found.followed <= found.gateways
    assert (found.seconds is None) == (found.followed == 0)
    assert followed(list(reversed(known)), 1, 4, NOON) == found


def test_a_rollback_by_a_look_is_timed_from_the_look(store, judged):
    judged.errors["v2"] = 0.4
    rollout = judged.begin().rollout_id
    judged.run(judged.controller(), rollout)
    decided = judged.clock.now
    judged.clock.pass_(-0.6)
    judged.serve(1.0)
    with store.database.snapshot() as session:
        row = session.get(RolloutRow, rollout)
        found = propagation.taking_back(session, row)
        decision = session.get(DecisionRow, found.decision)
        assert decision.command == "rollback"
        assert found.revision == decision.outcome["policy"]["revision"]
    assert (found.decided_at, found.followed, found.gateways) == (decided, 1, 1)
    assert found.seconds == 0.4


def test_a_rollout_that_was_not_taken_back_has_no_such_time(store, judged):
    rollout = judged.begin().rollout_id
    with store.database.snapshot() as session:
        assert propagation.taking_back(session, session.get(RolloutRow, rollout)) is None
        assert propagation.routings(session, MODEL) == []


def test_one_that_was_superseded_by_another_has_none_either(store, judged):
    first = judged.begin().rollout_id
    judged.begin(replace=True)
    with store.database.snapshot() as session:
        row = session.get(RolloutRow, first)
        assert (row.phase, row.reason) == ("rolled_back", "superseded")
        assert propagation.taking_back(session, row) is None
        assert tallies.of_model(session, MODEL) == []


def kept(judged, rollout):
    with judged.store.database.snapshot() as session:
        return session.get_one(RolloutRow, rollout).followed


def taken_back(judged, rollout):
    with judged.store.database.snapshot() as session:
        return propagation.taking_back(session, session.get_one(RolloutRow, rollout))


def bad_one(judged):
    """A rollout that was taken back, its controller, and what its last look saw of gateways."""
    judged.errors = {"v2": 0.5}
    rollout, controller = judged.begin().rollout_id, judged.controller()
    assert judged.run(controller, rollout).phase == "rolled_back"
    return rollout, controller


def forget(judged):
    with judged.store.database.transaction() as session:
        tallies.prune(session, judged.clock.now + timedelta(days=1))


def test_how_gateways_followed_the_end_outlives_what_they_say(judged):
    rollout, controller = bad_one(judged)
    controller.tick()
    assert kept(judged, rollout) is None
    judged.serve(0.5)
    controller.tick()
    found = taken_back(judged, rollout)
    assert (found.followed, found.gateways, found.seconds) == (1, 1, 0.5)
    assert kept(judged, rollout) == found.model_dump(mode="json")
    forget(judged)
    assert taken_back(judged, rollout) == found


def test_a_gateway_that_never_follows_is_waited_for_no_longer_than_it_may_live(judged):
    rollout, controller = bad_one(judged)
    judged.clock.pass_(propagation.AT_MOST.total_seconds() - 1)
    controller.tick()
    assert kept(judged, rollout) is None
    judged.clock.pass_(1)
    controller.tick()
    forget(judged)
    found = taken_back(judged, rollout)
    assert (found.followed, found.gateways, found.seconds) == (0, 1, None)


def test_nothing_is_kept_of_one_that_goes_on_or_was_superseded(judged):
    first = judged.begin().rollout_id
    controller = judged.controller()
    second = judged.begin(QUICK.model_copy(update={"candidate": "v3"}), replace=True).rollout_id
    judged.clock.pass_(propagation.AT_MOST.total_seconds())
    controller.tick()
    assert [kept(judged, rollout) for rollout in (first, second)] == [None, None]
