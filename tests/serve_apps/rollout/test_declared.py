"""A declaration is begun when it is new: a controller that merely starts again begins nothing."""

from __future__ import annotations

from cluster.errors import ConflictError
from serve_apps.rollout import declared, records
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Promote, Rollback
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL


def spec(**more) -> RolloutSpec:
    return RolloutSpec.model_validate({**QUICK.stored(), **more})


def live(store, found: RolloutSpec | None) -> None:
    """The begin of a controller's life."""
    wanted = {} if found is None else {MODEL: found}
    declared.forget_others(store, wanted)
    assert declared.begin_all(store, wanted) == {}


def rollouts(store) -> list[str]:
    with store.database.snapshot() as session:
        return [row.candidate for row in records.rollouts(session, MODEL)]


def refusals(store) -> list[str]:
    with store.database.snapshot() as session:
        found = records.events_of(session, MODEL, 100)
        return [row.sentence for row in found if row.kind == declared.NOT_BEGUN]


def test_what_is_declared_is_begun_once_and_what_is_declared_next_in_its_place(store):
    live(store, spec())
    live(store, spec())
    assert rollouts(store) == ["v2"]
    live(store, spec(candidate="v3"))
    live(store, spec(candidate="v3"))
    assert rollouts(store) == ["v2", "v3"]
    assert refusals(store) == []


def test_another_attempt_begins_the_same_policy_again(store):
    live(store, spec())
    Rollouts(store).run(Rollback(model=MODEL))
    live(store, spec())
    assert rollouts(store) == ["v2"]
    live(store, spec(attempt=2))
    assert rollouts(store) == ["v2", "v2"]


def test_a_candidate_that_was_stable_when_it_was_declared_is_not_begun_once_a_person_went_back(store, linnet):
    by_hand = Rollouts(store)
    by_hand.apply(by_hand.plan_begin(MODEL, "v2", spec(alpha=0.01)))
    by_hand.run(Promote(model=MODEL))
    live(store, spec())
    by_hand.run(Rollback(model=MODEL))
    live(store, spec())
    assert rollouts(store) == ["v2"]
    assert refusals(store) == [f"{MODEL}: the declared rollout of v2 was not begun: v2 is stable already"]
    assert "v2 is stable already" in linnet("status", MODEL)[1].out


def test_one_that_is_refused_says_so_once_and_takes_no_ones_place_later(store, linnet):
    world.add_version(store, "v4", tokenizer="u" * 64)
    refused = spec(candidate="v4")
    live(store, refused)
    by_hand = Rollouts(store)
    by_hand.apply(by_hand.plan_begin(MODEL, "v3", spec(candidate="v3")))
    live(store, refused)
    assert rollouts(store) == ["v3"]
    [only] = refusals(store)
    assert only.startswith(f"{MODEL}: the declared rollout of v4 was not begun: ")
    assert only.endswith("; mend it and give it another `attempt`")
    assert "the declared rollout of v4 was not begun" in linnet("status", MODEL)[1].out


def test_one_that_was_begun_before_another_is_not_begun_again_and_says_so(store):
    for candidate in ("v2", "v3", "v2"):
        live(store, spec(candidate=candidate))
    assert rollouts(store) == ["v2", "v3"]
    [only] = refusals(store)
    assert "rollout 1 was begun by this very policy" in only


def test_a_controller_that_was_killed_before_it_noted_the_declaration_begins_nothing_twice(store):
    applied, why = declared._begin(store, MODEL, spec())
    assert (applied.rollout_id, why) == (1, "")
    live(store, spec())
    assert (rollouts(store), refusals(store)) == (["v2"], [])


def test_what_is_declared_no_longer_is_news_when_it_comes_back(store):
    world.add_version(store, "v4", tokenizer="u" * 64)
    for found in (spec(candidate="v4"), None, spec(candidate="v4")):
        live(store, found)
    assert len(refusals(store)) == 2


def test_where_somebody_is_in_the_way_it_is_tried_again(store, monkeypatch):
    def moved_on(*_arguments, **_options):
        raise ConflictError("Another command came in between.", code="rollout.moved_on", retryable=True)

    with monkeypatch.context() as patch:
        patch.setattr(Rollouts, "apply", moved_on)
        left = declared.begin_all(store, {MODEL: spec()})
    assert left == {MODEL: spec()}
    assert declared.begin_all(store, left) == {}
    assert (rollouts(store), refusals(store)) == (["v2"], [])
