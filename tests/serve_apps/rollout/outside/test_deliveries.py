from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cluster.state import deliveries
from cluster.state.database import open_database
from cluster.state.deliveries import Progress
from serve_apps.rollout.outside.config import Webhook
from serve_apps.rollout.outside.deliveries import FIRST, LONGEST, TRIES, Delivery, failed, pause, settled
from serve_apps.rollout.outside.webhooks import WebhookClient
from tests.serve_apps.rollout.outside.outsiders import SECRET, moment, outsider

NOW = datetime(2026, 11, 22, 10)


@pytest.fixture
def database(tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


@dataclass
class Listener:
    """A receiver that fails as it is told to; `heard` is what it was told, taken or not."""

    fails: list[str | None] = field(default_factory=list)
    heard: list[int] = field(default_factory=list)
    ignores: tuple[int, ...] = ()
    name: str = "listener"
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def wants(self, told):
        return told.sequence not in self.ignores

    async def deliver(self, told):
        self.heard.append(told.sequence)
        self._news.set()
        return self.fails.pop(0) if self.fails else None

    async def has_heard(self, sequence):
        while sequence not in self.heard:
            self._news.clear()
            await self._news.wait()


@dataclass
class World:
    """What a delivery needs: moments that are there, a clock that only its sleeping moves."""

    database: object
    moments: list = field(default_factory=list)
    now: datetime = NOW
    slept: list[float] = field(default_factory=list)

    def happen(self, *sequences):
        self.moments += [moment(number) for number in sequences]

    async def sleep(self, seconds):
        await asyncio.sleep(0)
        if seconds:
            self.slept.append(seconds)
            self.now += timedelta(seconds=seconds)

    def delivery(self, receiver, rollout=7):
        def waiting(sequence):
            return [one for one in self.moments if one.sequence > sequence]

        return Delivery(self.database, receiver, rollout, waiting, clock=lambda: self.now, sleep=self.sleep)

    def progress(self, receiver="listener", rollout=7):
        with self.database.snapshot() as session:
            return deliveries.get(session, receiver, rollout)


@pytest.fixture
def world(database):
    return World(database)


def test_moments_are_told_in_order_and_once(world):
    world.happen(1, 2, 5)
    listener = Listener()
    asyncio.run(world.delivery(listener).drain())
    asyncio.run(world.delivery(listener).drain())
    assert listener.heard == [1, 2, 5]
    assert world.progress().settled == 5
    assert world.slept == []


def test_what_is_not_wanted_is_passed_over(world):
    world.happen(1, 2, 3)
    listener = Listener(ignores=(1, 3))
    asyncio.run(world.delivery(listener).drain())
    assert listener.heard == [2]
    assert world.progress().settled == 3


def test_a_moment_that_is_not_taken_is_told_again_after_pauses_that_double_and_before_any_later_one(world):
    world.happen(1, 2)
    listener = Listener(fails=["full"] * 3)
    asyncio.run(world.delivery(listener).drain())
    assert listener.heard == [1, 1, 1, 1, 2]
    assert world.slept == [1, 2, 4]
    assert world.progress().given_up == 0


def test_tries_are_bounded_and_the_next_moment_is_told(world, caplog):
    world.happen(1, 2)
    listener = Listener(fails=["gone"] * TRIES)
    asyncio.run(world.delivery(listener).drain())
    assert listener.heard == [1] * TRIES + [2]
    assert 15 * 60 < sum(world.slept) < 25 * 60
    assert max(world.slept) == LONGEST.total_seconds()
    found = world.progress()
    assert (found.settled, found.given_up, found.last_error) == (2, 1, "gone")
    assert "listener was never told of 'smollm2: weight of v3 from 5% to 25%': gone" in caplog.text


class Killed(BaseException):
    """Stands for a process that ends there."""


def test_a_controller_that_was_killed_after_the_answer_tells_the_same_moment_again(world, monkeypatch):
    world.happen(1, 2)
    listener = Listener()

    def killed(_session, _progress):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(deliveries, "put", killed)
        with pytest.raises(Killed):
            asyncio.run(world.delivery(listener).drain())
    asyncio.run(world.delivery(listener).drain())
    assert listener.heard == [1, 1, 2]


def test_tries_and_their_pause_outlive_the_controller(world, monkeypatch):
    world.happen(1)
    listener = Listener(fails=["full", "full"])

    async def killed(seconds):
        if seconds:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(world, "sleep", killed)
        with pytest.raises(Killed):
            asyncio.run(world.delivery(listener).drain())
    assert world.progress().tries == 1
    asyncio.run(world.delivery(listener).drain())
    assert world.slept == [1, 2]
    assert listener.heard == [1, 1, 1]


def test_rollouts_and_receivers_do_not_wait_for_each_other(world):
    world.happen(1)
    asyncio.run(world.delivery(Listener()).drain())
    other, later = Listener(name="other"), Listener()
    asyncio.run(world.delivery(other).drain())
    asyncio.run(world.delivery(later, rollout=8).drain())
    assert other.heard == later.heard == [1]


def test_a_clock_that_was_set_back_makes_no_pause_longer():
    waiting = Progress(receiver="r", rollout=1, tries=1, not_before=NOW + timedelta(days=1))
    assert pause(waiting, NOW) == LONGEST
    assert pause(waiting, NOW + timedelta(days=2)) == timedelta(0)
    assert pause(settled(waiting, 1), NOW) == timedelta(0)


@given(reasons=st.lists(st.text(max_size=5), min_size=1, max_size=3 * TRIES))
def test_every_moment_is_settled_within_the_tries_and_pauses_stay_bounded(reasons):
    progress, sequence = Progress(receiver="r", rollout=1), 1
    for reason in reasons:
        progress = failed(progress, sequence, reason, NOW)
        assert progress.tries < TRIES
        assert progress.last_error == reason
        assert progress.not_before is None or FIRST <= progress.not_before - NOW <= LONGEST
        sequence = progress.settled + 1
    assert progress.given_up == len(reasons) // TRIES


def test_a_real_receiver_that_fails_and_recovers_hears_the_same_id_again(world):
    answers = [500, 200, 200]

    async def handler(_request):
        return web.Response(status=answers.pop(0))

    async def scenario():
        async with outsider(handler) as server:
            client = WebhookClient(Webhook(url=server.url, kind="event"), server.session, SECRET)
            await world.delivery(client).drain()
            return [json.loads(body) for _, body in server.received]

    world.happen(1, 2)
    told = asyncio.run(scenario())
    assert [message["id"] for message in told] == ["7-1-event", "7-1-event", "7-2-event"]
    assert world.slept == [1]
