from __future__ import annotations

import asyncio
import json

import pytest

from serve_apps.replay.middleware import TellTokens
from serve_apps.replay.telling import current
from serve_apps.replay.wire import RESUME_TYPE, End, Resume, Told, Way, pack, part

EVENTS = [b'data: {"created":%d,"n":%d}\n\n' % (50 + 0, n) for n in range(4)]


async def streams(scope, receive, send):
    """Stands for vLLM: reads the body, then makes an event of each output of the engine."""
    message = await receive()
    scope["seen"].append((dict(scope["headers"]), message["body"]))
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    )
    telling = current.get()
    if telling is not None:
        telling.begin(Way.PREFILL, sampled=False)
    for number, event in enumerate(EVENTS):
        if telling is not None and (telling.resume is None or number >= len(telling.resume.steps)):
            telling.add([number], End("stop") if number == len(EVENTS) - 1 else None)
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def call(app, *, headers, body=b"{}", path="/v1/completions"):
    sent, seen = [], []
    scope = {"type": "http", "path": path, "headers": headers, "seen": seen}
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]

    async def receive():
        return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}

    async def receive_whole():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    resumes = (b"content-type", RESUME_TYPE.encode()) in headers
    asyncio.run(TellTokens(app)(scope, receive if resumes else receive_whole, send))
    return sent, seen


def body_of(sent):
    return b"".join(message.get("body", b"") for message in sent)


TELL = (b"x-linnet-tell", b"1")


@pytest.mark.parametrize(
    ("headers", "path"), [([], "/v1/completions"), ([TELL], "/v1/embeddings"), ([TELL], "/v1/models")]
)
def test_who_does_not_ask_is_told_nothing(headers, path):
    sent, _ = call(streams, headers=headers, path=path)
    assert body_of(sent) == b"".join(EVENTS)


def test_each_event_comes_after_the_comment_that_tells_its_tokens():
    sent, _ = call(streams, headers=[TELL])
    bodies = [message["body"] for message in sent if message.get("body")]
    parted = [part(body) for body in bodies]
    assert [events for events, _ in parted] == EVENTS
    assert [told for _, told in parted] == [
        [Told(steps=[[0]], way=Way.PREFILL)],
        [Told(steps=[[1]])],
        [Told(steps=[[2]])],
        [Told(steps=[[3]], end=End("stop"))],
    ]


def test_a_begun_stream_goes_on_after_the_events_that_were_passed():
    resume = Resume(Way.PREFILL, [[0], [1]], passed=2, created=7)
    kind = (b"content-type", RESUME_TYPE.encode())
    sent, seen = call(streams, headers=[TELL, kind, (b"accept", b"*/*")], body=pack(resume, b'{"model":"m"}'))
    events, told = part(body_of(sent))
    assert events == b'data: {"created":7,"n":2}\n\ndata: {"created":7,"n":3}\n\n'
    assert [one.steps for one in told if one.steps] == [[[2]], [[3]]]
    headers, body = seen[0]
    assert body == b'{"model":"m"}'
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"content-length"] == b"13"
    assert headers[b"accept"] == b"*/*"


def test_a_malformed_resume_is_refused_in_the_envelope():
    sent, seen = call(
        streams, headers=[TELL, (b"content-type", RESUME_TYPE.encode())], body=b'{"model": "m"}'
    )
    assert sent[0]["status"] == 400
    assert json.loads(body_of(sent))["error"]["code"] == "invalid_resume"
    assert not seen


def test_an_engine_that_fails_ends_the_connection_and_not_the_stream():
    async def fails(_scope, _receive, send):
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        current.get().failed = RuntimeError("the engine died")
        await send({"type": "http.response.body", "body": b'data: {"error": {}}\n\n', "more_body": True})

    with pytest.raises(RuntimeError, match="the engine died"):
        call(fails, headers=[TELL])


def test_the_error_of_a_stream_that_cannot_be_repeated_reaches_the_caller():
    async def diverges(_scope, _receive, send):
        kind = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        current.get().gave_up = True
        await send({"type": "http.response.body", "body": b'data: {"error": {}}\n\n', "more_body": True})

    resume = Resume(Way.REPEAT, [[0], [1]], passed=2)
    headers = [TELL, (b"content-type", RESUME_TYPE.encode())]
    sent, _ = call(diverges, headers=headers, body=pack(resume, b"{}"))
    assert b'"error"' in body_of(sent)


def test_a_whole_answer_is_left_alone():
    async def answers(_scope, _receive, send):
        kind = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": kind})
        await send({"type": "http.response.body", "body": b'{"created":1}', "more_body": False})

    sent, _ = call(answers, headers=[TELL])
    assert body_of(sent) == b'{"created":1}'
