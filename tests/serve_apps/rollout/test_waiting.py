from __future__ import annotations

import pytest

from cluster.errors import GateFailedError, NotFoundError, StorageError, TimedOutError
from serve_apps.rollout import waiting
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Pause, Resume, Rollback, Start
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL


class Waiter:
    """Waits, and lets the simulated world go on while it sleeps."""

    def __init__(self, store, judged) -> None:
        self.store = store
        self.judged = judged
        self.now = 0.0
        self.told: list[str] = []
        self.meanwhile = lambda: None
        self.controller = judged.controller()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.judged.serve()
        self.controller.tick()
        self.meanwhile()

    def wait(self, rollout: int | None = None, timeout_s: float = 600) -> waiting.Seen:
        return waiting.wait(
            self.store.database,
            MODEL,
            rollout,
            timeout_s=timeout_s,
            tell=lambda _at, sentence: self.told.append(sentence),
            clock=lambda: self.now,
            sleep=self.sleep,
        )


@pytest.fixture
def waiter(store, judged):
    return Waiter(store, judged)


def test_it_ends_with_the_promotion_and_has_told_each_event_once(judged, waiter):
    judged.begin()
    seen = waiter.wait()
    waiting.require_promoted(seen)
    assert seen.result["phase"] == "promoted"
    verbs = ["begun at 0%", "step 1 of 3", "step 2 of 3", "step 3 of 3", "v2 promoted"]
    assert len(waiter.told) == len(verbs)
    assert all(verb in sentence for verb, sentence in zip(verbs, waiter.told, strict=True))


def test_one_that_is_over_is_told_at_once(judged, waiter):
    judged.begin()
    waiter.wait()
    before = waiter.now
    waiter.told.clear()
    assert waiter.wait().phase == "promoted"
    assert waiter.now == before
    assert len(waiter.told) == 5


def test_a_gate_that_failed_is_exit_4_with_its_numbers(judged, waiter):
    judged.errors["v2"] = 0.4
    judged.begin()
    with pytest.raises(GateFailedError, match="error_rate max_ratio failed: ") as caught:
        waiting.require_promoted(waiter.wait())
    assert caught.value.code == "rollout.taken_back"


def test_a_pause_by_a_gate_is_exit_4_and_a_persons_is_waited_out(store, judged, waiter):
    judged.errors["v2"] = 0.4
    judged.begin(RolloutSpec.model_validate({**QUICK.stored(), "on_fail": "pause"}))
    Rollouts(store).run(Pause(model=MODEL))
    waiter.meanwhile = lambda: (
        Rollouts(store).run(Resume(model=MODEL)) if waiter.now == 3 and judged.policy.weight == 0 else None
    )
    seen = waiter.wait()
    assert any("resumed" in sentence for sentence in waiter.told)
    with pytest.raises(GateFailedError) as caught:
        waiting.require_promoted(seen)
    assert caught.value.code == "rollout.paused_by_gate"


def test_one_that_was_taken_back_without_a_verdict_is_exit_5(judged, waiter):
    judged.per_second = 1
    tree = {**QUICK.stored(), "deadline": "30s", "on_inconclusive": "rollback"}
    judged.begin(RolloutSpec.model_validate(tree))
    with pytest.raises(TimedOutError) as caught:
        waiting.require_promoted(waiter.wait())
    assert caught.value.code == "rollout.inconclusive"


def test_time_that_is_over_is_exit_5_with_what_it_waits_for(judged, waiter):
    judged.per_second = 0
    judged.begin()
    with pytest.raises(
        TimedOutError, match=r"progressing at step 1 of 3, 5%, after 20 s\. It waits for"
    ) as caught:
        waiter.wait(timeout_s=20)
    assert caught.value.code == "rollout.not_over"
    assert waiter.now == 20


def test_one_that_a_person_takes_back_is_exit_4(store, judged, waiter):
    judged.begin()
    waiter.meanwhile = lambda: (
        Rollouts(store).run(Rollback(model=MODEL), reason="no") if waiter.now == 2 else None
    )
    with pytest.raises(GateFailedError, match=r"\(aborted\): no"):
        waiting.require_promoted(waiter.wait())


def test_a_newer_rollout_does_not_take_the_place_of_the_one_that_is_waited_for(judged, waiter):
    judged.begin()
    waiter.meanwhile = lambda: judged.begin(replace=True) if waiter.now == 2 else None
    with pytest.raises(GateFailedError, match=r"Rollout 1 .*\(superseded\): rollout 2 of v2 took its place"):
        waiting.require_promoted(waiter.wait())
    assert not any("replaces" in sentence for sentence in waiter.told)


def test_a_rollout_by_hand_can_be_waited_for_too(store, judged, waiter):
    Rollouts(store).run(Start(model=MODEL, candidate="v2", weight=10))
    with pytest.raises(TimedOutError, match="is progressing, 10%, after 2 s"):
        waiter.wait(timeout_s=2)


def test_a_database_that_is_away_for_a_while_is_waited_for(store, judged, waiter, monkeypatch):
    judged.begin()
    read, away = waiting.read, iter([False, True, True, *[False] * 600])

    def flaky(*arguments):
        if next(away):
            raise StorageError("away", retryable=True)
        return read(*arguments)

    monkeypatch.setattr(waiting, "read", flaky)
    assert waiter.wait().phase == "promoted"
    assert len(waiter.told) == 5


def test_one_that_is_not_there_is_not_waited_for(store, judged, waiter):
    with pytest.raises(NotFoundError, match="has had no rollout"):
        waiter.wait()
    judged.begin()
    with pytest.raises(NotFoundError, match="no rollout 9 of `tiny`"):
        waiter.wait(rollout=9)
