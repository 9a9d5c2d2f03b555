import asyncio
from collections import Counter

import pytest

from serve_apps.adapters.middleware import AnswerAsVersion, current

LOADED = {"v2": "the second", "v3": "the third"}


async def answer_with_the_adapter(_scope, _receive, send):
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(current.get()).encode()})


async def ask(*headers, kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    app = AnswerAsVersion(answer_with_the_adapter, own="v1", find=LOADED.get, answering=Counter())
    await app({"type": kind, "headers": list(headers)}, None, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ([], (200, b"None")),
        ([(b"x-linnet-version", b"v1")], (200, b"None")),
        ([(b"x-linnet-version", b"v2")], (200, b"'the second'")),
        ([(b"x-linnet-version", b"v3"), (b"content-type", b"application/json")], (200, b"'the third'")),
    ],
)
def test_the_named_version_answers(headers, answer):
    assert asyncio.run(ask(*headers)) == answer
    assert current.get() is None


def test_one_that_is_not_loaded_is_left_to_another_replica():
    status, body = asyncio.run(ask((b"x-linnet-version", b"v9")))
    assert (status, body) == (503, b""), "the gateway asks elsewhere after a 503 without a body"


def test_requests_at_the_same_time_do_not_mix():
    async def both():
        return await asyncio.gather(*(ask((b"x-linnet-version", name)) for name in (b"v2", b"v3", b"v1") * 5))

    assert asyncio.run(both()) == [(200, b"'the second'"), (200, b"'the third'"), (200, b"None")] * 5


def test_requests_are_counted_from_the_first_moment_to_their_end_however_that_comes():
    answering, seen = Counter(), []

    async def break_off(scope, _receive, _send):
        seen.append(dict(+answering))
        if scope["headers"][0][1] == b"v3":
            raise ConnectionError

    async def run():
        app = AnswerAsVersion(break_off, own="v1", find=LOADED.get, answering=answering)
        for version in (b"v2", b"v1"):
            await app({"type": "http", "headers": [(b"x-linnet-version", version)]}, None, None)
        with pytest.raises(ConnectionError):
            await app({"type": "http", "headers": [(b"x-linnet-version", b"v3")]}, None, None)

    asyncio.run(run())
    assert seen == [{"v2": 1}, {}, {"v3": 1}]
    assert not +answering


def test_the_lifespan_passes():
    assert asyncio.run(ask(kind="lifespan"))[0] == 200
