from __future__ import annotations

import asyncio

import pytest

from serve_apps.gateway.asgi import HangUp, path_of, read_body
from serve_apps.gateway.openai_errors import Refusal


def feed(*messages):
    """A `receive` that yields the messages and then waits for ever, as Ray Serve's proxy does."""
    queue = list(messages)

    async def receive():
        if queue:
            return queue.pop(0)
        return await asyncio.Event().wait()

    return receive


PART = {"type": "http.request", "body": b"ab", "more_body": True}
END = {"type": "http.request", "body": b"c"}
GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/v1/models", "", "/v1/models"),
        ("/api/v1/models", "/api", "/v1/models"),
        ("/api/v1/models", "/api/", "/v1/models"),
        ("/v1/models", "/api", "/v1/models"),
        ("/api", "/api", "/"),
    ],
)
def test_the_path_is_read_below_the_mount_point(path, root, expected):
    assert path_of({"path": path, "root_path": root}) == expected


def test_bodies_are_joined_limited_and_given_up():
    async def scenario():
        plain = {"headers": []}
        assert await read_body(plain, feed(PART, PART, END), 5) == b"ababc"
        assert isinstance(await read_body(plain, feed(PART, PART, END), 4), Refusal)
        assert await read_body(plain, feed(PART, GONE), 5) is None
        declared = {"headers": [(b"content-length", b"6")]}
        assert isinstance(await read_body(declared, feed(), 5), Refusal)

    asyncio.run(scenario())


def test_a_hang_up_cancels_the_body_and_ends_quietly():
    async def scenario():
        async with HangUp(feed(GONE)) as hang_up:
            await asyncio.Event().wait()
        assert hang_up.happened
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_cancellation_from_outside_is_passed_on():
    async def scenario():
        entered = asyncio.Event()

        async def body():
            async with HangUp(feed()):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(body())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_a_caller_who_leaves_after_the_answer_changes_nothing():
    async def scenario():
        async with HangUp(feed(GONE)) as hang_up:
            hang_up.ignore()
            await asyncio.sleep(0.01)
        assert not hang_up.happened

    asyncio.run(scenario())


def test_an_error_in_the_body_is_not_swallowed():
    async def scenario():
        with pytest.raises(ValueError, match="x"):
            async with HangUp(feed()):
                raise ValueError("x")

    asyncio.run(scenario())
