from __future__ import annotations

import asyncio

import pytest

from cluster.errors import StorageError
from serve_apps.rollout.outside import keeping_on
from serve_apps.rollout.outside.keeping_on import keep_on


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(keeping_on, "AGAIN_S", 0)


def run(faults, tell):
    """Work that fails so often; how often it was begun."""
    begun = []

    async def work():
        begun.append(True)
        if faults:
            raise faults.pop(0)

    asyncio.run(keep_on(work, tell))
    return len(begun)


def test_each_fault_is_told_and_the_work_is_done_in_the_end(caplog):
    told = []
    faults = [StorageError("The disk is full.", code="storage.full"), KeyError("place")]
    assert run(faults, told.append) == 3
    assert [(one.code, one.message) for one in told] == [
        ("storage.full", "The disk is full."),
        ("rollout.outsider", "KeyError: 'place'"),
    ]
    assert "Traceback" in caplog.text


def test_that_nobody_can_be_told_ends_nothing(caplog):
    def tell(_fault):
        raise StorageError("The state database does not answer.")

    assert run([StorageError("gone")], tell) == 2
    assert "nobody could be told: gone" in caplog.text


def test_what_is_cancelled_ends():
    async def scenario():
        task = asyncio.create_task(keep_on(asyncio.Event().wait, pytest.fail))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(scenario())
