from __future__ import annotations

import asyncio
import signal

import pytest

from cluster.demo import interruptions


def interrupt() -> None:
    signal.raise_signal(signal.SIGTERM)


def hold_back(reached: list[bool]) -> None:
    with interruptions.held():
        interrupt()
        reached.append(True)


def test_held_back_until_the_end_of_the_block():
    reached: list[bool] = []
    with interruptions.as_keyboard_interrupt():
        with pytest.raises(KeyboardInterrupt):
            hold_back(reached)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert reached


def test_ignored_is_forgotten():
    with interruptions.as_keyboard_interrupt():
        with interruptions.ignored():
            interrupt()
            with interruptions.held():
                interrupt()
        with interruptions.held():
            pass


def test_a_loop_is_cancelled_as_a_whole_and_its_tasks_with_it():
    ended: list[str] = []

    async def sleeper(name: str) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(name)

    async def work() -> None:
        asyncio.get_running_loop().call_later(0.05, interrupt)
        await asyncio.gather(sleeper("a"), sleeper("b"))

    with interruptions.as_keyboard_interrupt():
        with pytest.raises(KeyboardInterrupt):
            interruptions.run(work())
        assert sorted(ended) == ["a", "b"]
        with interruptions.held():
            pass


def test_a_loop_returns_what_its_work_returns():
    assert interruptions.run(asyncio.sleep(0, "done")) == "done"
