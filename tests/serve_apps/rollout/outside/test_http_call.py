from __future__ import annotations

import asyncio
import gzip
import time
from datetime import timedelta

import pytest
from aiohttp import web

from serve_apps.rollout.outside.http_call import LARGEST, Call, NoReply, Reply, new_session, post
from tests.serve_apps.rollout.outside.outsiders import (
    breaks,
    floods,
    hangs,
    nobody,
    outsider,
    says,
    trickles,
)

SHORT = timedelta(milliseconds=300)


def ask(handler, within=timedelta(seconds=20), **call):
    async def scenario():
        async with outsider(handler) as server:
            return await post(server.session, Call(f"{server.url}/hook", within, **call))

    return asyncio.run(scenario())


@pytest.mark.parametrize("handler", [hangs, trickles])
def test_a_server_that_hangs_or_trickles_ends_by_the_deadline(handler):
    began = time.monotonic()
    reply = ask(handler, within=SHORT)
    assert reply == NoReply("there was no whole answer within 0.3 s", late=True)
    assert time.monotonic() - began < 5


def test_an_answer_without_end_is_read_to_a_bound():
    reply = ask(floods)
    assert (reply.status, len(reply.body), reply.cut) == (200, LARGEST, True)


def test_an_answer_of_just_the_bound_is_whole():
    reply = ask(says(text="x" * 100), largest=100)
    assert (len(reply.body), reply.cut) == (100, False)


def test_a_port_where_nobody_listens_is_told_and_is_not_late():
    async def scenario():
        async with new_session() as session:
            return await post(session, Call(nobody(), SHORT))

    reply = asyncio.run(scenario())
    assert isinstance(reply, NoReply)
    assert not reply.late
    assert "Cannot connect" in reply.reason


def test_a_connection_that_breaks_is_no_answer():
    reply = ask(breaks)
    assert isinstance(reply, NoReply)
    assert not reply.late


def test_a_redirect_is_not_followed():
    went = []

    async def redirects(request):
        went.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    assert ask(redirects) == NoReply("the answer is a redirect (307), which is not followed")
    assert went == ["/hook"]


def test_compressed_answers_are_not_asked_for_and_not_unpacked():
    bomb = gzip.compress(b"\0" * 2**24)

    async def compressed(request):
        assert request.headers["accept-encoding"] == "identity"
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    assert ask(compressed).body == bomb


def test_cookies_are_not_kept():
    async def counts(request):
        response = web.Response(text=request.headers.get("cookie", "none"))
        response.set_cookie("who", "ada")
        return response

    async def scenario():
        async with outsider(counts) as server:
            # A jar takes no cookies of a bare address anyway.
            call = Call(server.url.replace("127.0.0.1", "localhost"), timedelta(seconds=20))
            return [(await post(server.session, call)).body for _ in range(2)]

    assert asyncio.run(scenario()) == [b"none", b"none"]


def json_reply(body: bytes, kind: str = "application/json; charset=utf-8", *, cut: bool = False) -> Reply:
    return Reply(200, {"content-type": kind}, body, cut)


def test_json_is_read_where_it_is_said_to_be():
    assert json_reply(b'{"a": [1, {"b": 2}]}').json() == {"a": [1, {"b": 2}]}


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (json_reply(b"{}", kind="text/html"), "text/html, not application/json"),
        (json_reply(b"{}", kind=""), "missing, not application/json"),
        (json_reply(b"{}", cut=True), "longer than 2 bytes"),
        (json_reply(b"ok"), "it is not JSON"),
        (json_reply(b"\xff\xfe\xfa"), "it is not JSON"),
        (json_reply(b'{"a": 1, "a": 2}'), "a key is there twice"),
        (json_reply(b"[" * 200_000), "it is nested too deeply"),
    ],
)
def test_what_is_no_json_says_why(reply, said):
    with pytest.raises(ValueError, match=said):
        reply.json()


def test_text_is_one_line_that_steers_no_terminal():
    assert Reply(200, {}, b"a\x1b[2J\n\n  b\xff" + b"c" * 400, cut=False).text(9) == "a [2J b�c"
