import asyncio

import pytest

from serve_apps.liveness import Pulse, hung


def within(seconds, coroutine):
    async def bounded():
        return await asyncio.wait_for(coroutine, seconds)

    return asyncio.run(bounded())


async def never():
    await asyncio.Event().wait()


def test_an_engine_that_answers_nothing_is_named_after_its_time():
    asked = []

    async def ask():
        asked.append(1)
        await never()

    said = within(20, hung(Pulse(), ask, every_s=0.05, timeout_s=0.2))
    assert "put nothing out" in said
    assert asked == [1]


def test_an_engine_that_answers_is_left_alone():
    asked = []

    async def ask():
        asked.append(1)

    with pytest.raises(TimeoutError):
        within(1.0, hung(Pulse(), ask, every_s=0.05, timeout_s=0.2))
    assert len(asked) >= 2


def test_a_busy_engine_is_not_even_asked():
    pulse = Pulse()

    async def busy():
        while True:
            pulse.beat()
            await asyncio.sleep(0.01)

    async def both():
        working = asyncio.create_task(busy())
        try:
            await hung(pulse, never, every_s=0.3, timeout_s=0.4)
        finally:
            working.cancel()

    with pytest.raises(TimeoutError):
        within(1.5, both())


def test_an_engine_that_puts_out_other_answers_first_is_alive():
    pulse = Pulse()

    async def queued():
        while True:
            await asyncio.sleep(0.05)
            pulse.beat()

    async def both():
        await asyncio.sleep(0.11)
        working = asyncio.create_task(queued())
        try:
            await hung(pulse, never, every_s=0.1, timeout_s=0.3)
        finally:
            working.cancel()

    with pytest.raises(TimeoutError):
        within(1.5, both())


def test_a_probe_that_fails_at_once_is_no_sign_of_life():
    async def fail():
        raise RuntimeError("no")

    assert within(20, hung(Pulse(), fail, every_s=0.05, timeout_s=0.2))
