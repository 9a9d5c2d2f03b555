from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from cluster.errors import StorageError
from cluster.state import deliveries
from cluster.state.tables import RolloutRow, utc_now
from serve_apps.rollout import telling, untold
from serve_apps.rollout.outside import keeping_on
from serve_apps.rollout.outside.config import Webhook
from serve_apps.rollout.service import Rollouts
from serve_apps.rollout.spec import RolloutSpec
from serve_apps.rollout.states import Rollback
from serve_apps.rollout.telling import Telling
from tests.serve_apps.rollout.judged_world import QUICK
from tests.serve_apps.rollout.world import MODEL

HOOK = {"url": "http://127.0.0.1:9/events", "kind": "event"}
OTHER = {"url": "http://127.0.0.1:9/other", "kind": "event"}


@dataclass
class Receivers:
    """All that any receiver was told, by its URL."""

    heard: dict[str, list[str]] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def client(self, config, _session, _environ):
        return Receiver(self, config)

    @property
    def hanging_names(self):
        return {untold.name_of(Webhook(url=url)) for url in self.hanging}

    def events(self, hook=HOOK):
        return self.heard.get(hook["url"], [])


@dataclass
class Receiver:
    world: Receivers
    config: Webhook

    @property
    def name(self):
        return untold.name_of(self.config)

    def wants(self, _moment):
        return True

    async def deliver(self, moment):
        if self.config.url in self.world.hanging:
            await asyncio.Event().wait()
        self.world.heard.setdefault(self.config.url, []).append(moment.event)
        self.world.news.set()


@pytest.fixture
def receivers(monkeypatch):
    found = Receivers()
    monkeypatch.setattr(telling, "client", found.client)
    monkeypatch.setattr(telling, "LOOK_EACH_S", 0.02)
    monkeypatch.setattr(keeping_on, "AGAIN_S", 0)
    return found


def begin(store, *hooks, replace=False, **more) -> int:
    spec = RolloutSpec.model_validate({**QUICK.stored(), "webhooks": list(hooks), **more})
    rollouts = Rollouts(store)
    return rollouts.apply(rollouts.plan_begin(MODEL, spec.candidate, spec, replace=replace)).rollout_id


def live(store, receivers, is_enough, then=None):
    """One life of a teller, until what it told is enough; returns how many tasks hang at its end."""

    async def scenario():
        receivers.news = asyncio.Event()
        teller = Telling(store.database, None, {})
        async with asyncio.timeout(30):
            while not is_enough():
                receivers.news.clear()
                await receivers.news.wait()
            if then is not None:
                await then(teller)
            ending = [task for key, task in teller._tasks.items() if key[1] not in receivers.hanging_names]
            await asyncio.gather(*ending)
        left = len(teller._tasks)
        await teller.end()
        return left

    return asyncio.run(scenario())


def test_an_end_that_came_while_nobody_could_tell_it_is_told_by_the_next_life_and_once(store, receivers):
    rollout = begin(store, HOOK)
    live(store, receivers, lambda: len(receivers.events()) == 1)
    Rollouts(store).run(Rollback(model=MODEL), reason="no good")
    assert live(store, receivers, lambda: len(receivers.events()) == 2) == 0
    assert receivers.events()[1].endswith("(no good)")
    with store.database.snapshot() as session:
        assert untold.untold(session, utc_now(), {})[0] == []
    later = begin(store, HOOK)
    live(store, receivers, lambda: len(receivers.events()) == 3)
    assert later > rollout
    assert "begun at 0%" in receivers.events()[2]


def test_a_rollout_whose_place_another_took_has_its_event(store, receivers):
    begin(store, HOOK)
    second = begin(store, candidate="v3", replace=True)
    live(store, receivers, lambda: len(receivers.events()) == 2)
    assert receivers.events()[1] == (
        f"{MODEL}: rollout of v2 taken back from 0% to 0%, superseded by rollout {second} of v3"
    )


def test_what_is_decided_while_it_tells_is_told_too(store, receivers):
    begin(store, HOOK)

    async def more(teller):
        await asyncio.to_thread(Rollouts(store).run, Rollback(model=MODEL))
        teller.news()
        while len(receivers.events()) < 2:
            receivers.news.clear()
            await receivers.news.wait()

    live(store, receivers, lambda: len(receivers.events()) == 1, more)
    assert len(receivers.events()) == 2


def test_receivers_and_rollouts_do_not_wait_for_one_that_hangs(store, receivers):
    receivers.hanging = {OTHER["url"]}
    begin(store, OTHER, HOOK)
    assert live(store, receivers, receivers.events) == 1
    assert receivers.events(OTHER) == []
    receivers.hanging = set()
    live(store, receivers, lambda: receivers.events(OTHER))
    assert (len(receivers.events()), len(receivers.events(OTHER))) == (1, 1)


def test_a_fault_of_the_database_is_outlived(store, receivers, monkeypatch, caplog):
    begin(store, HOOK)
    faults = [StorageError("The state database does not answer.")] * 2

    def faulty(before):
        def called(*arguments):
            if faults:
                raise faults.pop()
            return before(*arguments)

        return called

    monkeypatch.setattr(telling, "untold", faulty(untold.untold))
    live(store, receivers, receivers.events)
    assert "it is not known for now what is untold" in caplog.text


def test_one_that_ended_long_ago_is_left_alone_and_an_old_one_that_is_active_is_not(store):
    rollout = begin(store, HOOK)

    def found_after(phase):
        with store.database.transaction() as session:
            row = session.get_one(RolloutRow, rollout)
            row.phase, row.updated_at = phase, utc_now() - untold.RECENT - timedelta(hours=1)
        with store.database.snapshot() as session:
            found, known = untold.untold(session, utc_now(), {})
        assert list(known) == [one.rollout for one in found]
        return list(known)

    assert found_after("progressing") == [rollout]
    assert found_after("rolled_back") == []


def test_a_policy_that_cannot_be_read_keeps_no_other_untold(store, caplog):
    first = begin(store, HOOK)
    second = begin(store, HOOK, candidate="v3", replace=True)
    with store.database.transaction() as session:
        row = session.get_one(RolloutRow, first)
        row.spec = {**row.spec, "alpha": 7}
    with store.database.snapshot() as session:
        assert [one.rollout for one in untold.untold(session, utc_now(), {})[0]] == [second]
    assert f"the policy of rollout {first} cannot be read" in caplog.text


def test_what_was_told_of_a_part_is_taken_from_the_bookmark(store):
    rollout = begin(store, HOOK)
    name = untold.name_of(Webhook.model_validate(HOOK))
    with store.database.transaction() as session:
        deliveries.put(session, deliveries.Progress(receiver=name, rollout=rollout, settled=1))
    with store.database.snapshot() as session:
        assert untold.untold(session, utc_now(), {})[0] == []
    Rollouts(store).run(Rollback(model=MODEL))
    with store.database.snapshot() as session:
        assert [one.key for one in untold.untold(session, utc_now(), {})[0]] == [(rollout, name)]
