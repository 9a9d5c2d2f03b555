from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import Webhook, WebhookKind
from serve_apps.rollout.outside.http_call import NoReply, Reply
from serve_apps.rollout.outside.signing import verify
from serve_apps.rollout.outside.verdict import Verdict
from serve_apps.rollout.outside.webhooks import WebhookClient, understood
from tests.serve_apps.rollout.outside.outsiders import (
    SECRET,
    breaks,
    hangs,
    moment,
    nobody,
    outsider,
    says,
    trickles,
)

NOW = datetime(2026, 11, 22, 10, 0, 5, 250_000, tzinfo=UTC)
KINDS = list(WebhookKind)
LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=300)


def ask(handler, kind="gate", timeout=LONG, **given):
    async def scenario():
        async with outsider(handler) as server:
            config = Webhook(url=f"{server.url}/hook", kind=kind, timeout=timeout)
            client = WebhookClient(config, server.session, SECRET, lambda: NOW)
            return await client.ask(moment(**given)), server.received

    return asyncio.run(scenario())


def answer(handler, kind="gate", **given):
    return ask(handler, kind, **given)[0]


def gate(verdict="pass", **more):
    return says(text=json.dumps({"verdict": verdict} | more), content_type="application/json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_gets_a_signed_message_that_says_all(kind):
    _, [(headers, body)] = ask(gate(), kind, sequence=4)
    verify("hush", headers, body, now=NOW.timestamp())
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {
        "id": f"7-4-{kind}",
        "kind": kind,
        "rollout": 7,
        "model": "smollm2",
        "candidate": "v3",
        "stable": "v2",
        "phase": "progressing",
        "phase_before": "progressing",
        "step": 2,
        "weight": 25.0,
        "weight_before": 5.0,
        "sequence": 4,
        "event": "smollm2: weight of v3 from 5% to 25%",
        "sent_at": "2026-11-22T10:00:05.250000Z",
    }


@pytest.mark.parametrize("kind", ["confirm-start", "confirm-step", "event"])
@pytest.mark.parametrize("status", [200, 202, 204])
def test_2xx_is_a_yes_whatever_the_body(kind, status):
    assert answer(says(status, "" if status == 204 else "nope"), kind).verdict is Verdict.PASS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", [400, 403, 409, 451])
def test_4xx_is_a_no_with_the_beginning_of_the_body(kind, status):
    said = answer(says(status, "change freeze\nuntil Monday " + "x" * 1000), kind)
    assert said.verdict is Verdict.FAIL
    assert said.reason.startswith(f"it answered {status}: change freeze until Monday xxx")
    assert len(said.reason) == len(f"it answered {status}: ") + 300


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (says(500, "oops"), "it answered 500: oops"),
        (says(503), "it answered 503: "),
        (says(401, "who?"), "it answered 401: who?"),
        (says(404), "it answered 404: "),
        (says(429), "it answered 429: "),
        (says(302, Location="/yes"), "the answer is a redirect (302), which is not followed"),
        (says(304), "the answer is a redirect (304), which is not followed"),
        (hangs, "there was no whole answer within 0.3 s"),
        (trickles, "there was no whole answer within 0.3 s"),
        (breaks, "there was no answer: "),
    ],
)
def test_all_else_is_neither(kind, handler, reason):
    said, _ = ask(handler, kind, SHORT if handler in (hangs, trickles) else LONG)
    assert said.verdict is Verdict.INCONCLUSIVE
    assert said.reason.startswith(reason)


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_that_is_not_there_is_neither(kind):
    async def scenario():
        async with outsider(says()) as server:
            config = Webhook(url=nobody(), kind=kind)
            return await WebhookClient(config, server.session, SECRET).ask(moment())

    assert asyncio.run(scenario()).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_gate_says_its_verdict_and_why(verdict):
    said = answer(gate(verdict, reason="p95 of 3.1 s\n is over 2 s", more="is not read"))
    assert (said.verdict, said.reason) == (verdict, "p95 of 3.1 s is over 2 s")


def test_a_gate_need_give_no_reason():
    assert answer(gate("fail")).reason == "it gave no reason"


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (says(200, "ok"), "gives no verdict: its content-type is text/plain"),
        (says(200, '{"verdict": "pass"}', "text/html"), "gives no verdict: its content-type is text/html"),
        (says(204), "gives no verdict: its content-type is"),
        (says(200, "<html>welcome</html>", "application/json"), "gives no verdict: it is not JSON"),
        (says(200, '"pass"', "application/json"), "has no `verdict` that is one of"),
        (gate("PASS"), "has no `verdict` that is one of fail, inconclusive, pass"),
        (gate("passed"), "has no `verdict` that is one of"),
        (gate(True), "has no `verdict` that is one of"),
        (gate(["pass"]), "has no `verdict` that is one of"),
        (gate(None), "has no `verdict` that is one of"),
        (gate("pass", reason=3), "the `reason` in its answer is no text"),
        (gate("pass", reason="x" * 70_000), "gives no verdict: it is longer than 65536 bytes"),
        (
            says(200, '{"verdict": "fail", "verdict": "pass"}', "application/json"),
            "gives no verdict: it is not JSON: a key is there twice",
        ),
    ],
)
def test_a_gate_that_says_anything_else_has_not_passed(handler, reason):
    said = answer(handler)
    assert said.verdict is Verdict.INCONCLUSIVE
    assert reason in said.reason


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_that_failed_is_ever_a_pass(kind):
    replies = [NoReply("gone"), *(Reply(status, {}, b"", cut=False) for status in range(300, 600))]
    assert {understood(reply, kind).verdict for reply in replies} == {Verdict.FAIL, Verdict.INCONCLUSIVE}


def test_a_secret_that_is_not_set_stops_the_start():
    config = Webhook(url="https://example.com/x", secret_env="OURS")
    with pytest.raises(ConfigError, match="OURS, which is not set") as caught:
        WebhookClient(config, session=None, environ={"OURS": " "})
    assert caught.value.code == "rollout.no_secret"


def test_its_name_does_not_tell_the_url():
    client = WebhookClient(Webhook(url="https://example.com/token"), session=None, environ=SECRET)
    other = WebhookClient(Webhook(url="https://example.com/other"), session=None, environ=SECRET)
    assert "token" not in client.name
    assert client.name != other.name


def test_an_event_that_was_not_taken_says_why():
    async def scenario(handler):
        async with outsider(handler) as server:
            config = Webhook(url=server.url, kind="event")
            client = WebhookClient(config, server.session, SECRET)
            assert client.wants(moment())
            return await client.deliver(moment())

    assert asyncio.run(scenario(says(200))) is None
    assert asyncio.run(scenario(says(500, "full"))) == "it answered 500: full"
    assert asyncio.run(scenario(says(404, "gone"))) == "it answered 404: gone"
