"""What docs/rollouts/outside.md shows is read, run and compared."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import timedelta
from http.server import ThreadingHTTPServer

import pytest
import yaml

from cluster.config import validate
from serve_apps.rollout import gate_spec
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.metrics import QUALITY
from serve_apps.rollout.outside import deliveries, webhooks
from serve_apps.rollout.outside.config import ScorerName, Slack, Webhook, WebhookKind
from serve_apps.rollout.outside.http_call import NoReply, Reply, new_session
from serve_apps.rollout.outside.message import Message
from serve_apps.rollout.outside.quality.rows import read_rows
from serve_apps.rollout.outside.verdict import Verdict
from serve_apps.rollout.outside.webhooks import WebhookClient
from tests.serve_apps.rollout.outside.outsiders import SECRET, moment
from tests.support.markdown import CHECKOUT, blocks, code, tables

PAGE = CHECKOUT / "docs" / "rollouts" / "outside.md"


def shown(language):
    return [block for block in blocks(language) if block.file == "docs/rollouts/outside.md"]


def only_table(marker):
    [(_, rows)] = tables(PAGE, marker)
    return rows


@pytest.mark.parametrize("block", shown("yaml"), ids=str)
def test_yaml_blocks_fit_the_models(block):
    tree = yaml.safe_load(block.text)
    assert tree.keys() <= {"gates", "webhooks", "slack"}
    found = [(Gate, gate) for gate in tree.get("gates", [])]
    found += [(Webhook, hook) for hook in tree.get("webhooks", [])]
    found += [(Slack, tree["slack"])] if "slack" in tree else []
    assert found
    for model, given in found:
        validate(given, model, source=str(block))


def test_the_keys_of_a_held_out_set_are_those_that_a_gate_takes_with_their_defaults():
    rows = only_table("keys-of-quality")
    own = [name for name, goes_with in gate_spec._GOES_WITH.items() if goes_with == (QUALITY,)]
    assert [code(key)[0] for key, _, _ in rows] == ["metric", "max_drop", *own]
    shown_defaults = {code(key)[0]: yaml.safe_load(code(default)[0]) for key, default, _ in rows if default}
    known = Gate(metric=QUALITY, data="set.jsonl", max_drop="1 points").model_dump(mode="json")
    assert shown_defaults == {name: known[name] for name in own if known[name] is not None and name != "data"}


def test_how_long_a_round_may_take_is_said_as_it_is():
    gate = Gate(metric=QUALITY, data="set.jsonl", max_drop="1 points").quality()
    assert (
        "Two questions are asked at a time, an\nanswer may take a minute and a round half an hour."
        in PAGE.read_text()
    )
    assert (gate.concurrency, gate.timeout, gate.deadline) == (2, timedelta(minutes=1), timedelta(minutes=30))


def test_the_rows_that_are_shown_can_be_used():
    for block in shown("json"):
        assert read_rows(block.text.encode(), str(block), ScorerName.EXACT, has_judge=False)


def test_the_receiver_that_is_shown_answers_who_holds_the_secret_and_nobody_else(monkeypatch):
    monkeypatch.setenv("LINNET_WEBHOOK_SECRET", "hush")
    [block] = shown("python")
    namespace = {}
    exec(compile(block.text, str(block), "exec"), namespace)
    namespace["Gate"].log_message = lambda *_: None
    server = ThreadingHTTPServer(("127.0.0.1", 0), namespace["Gate"])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    async def ask(environ):
        async with new_session() as session:
            config = Webhook(url=f"http://127.0.0.1:{server.server_port}/")
            return await WebhookClient(config, session, environ).ask(moment())

    try:
        answer = asyncio.run(ask(SECRET))
        assert (answer.verdict, answer.reason) == (Verdict.PASS, "v3 may have 25%")
        stranger = asyncio.run(ask({"LINNET_WEBHOOK_SECRET": "guessed"}))
        assert stranger.verdict is Verdict.INCONCLUSIVE
        assert "is not signed with the shared secret" in stranger.reason
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)


def test_the_table_of_the_message_is_complete():
    assert {name for row in only_table("message") for name in code(row[0])} == set(Message.model_fields)


def test_the_table_of_answers_is_what_is_understood():
    words = {
        "yes": Verdict.PASS,
        "no": Verdict.FAIL,
        "fail": Verdict.FAIL,
        "inconclusive": Verdict.INCONCLUSIVE,
        "what its JSON says": Verdict.PASS,
    }
    body = json.dumps({"verdict": "pass"}).encode()
    examples = {
        "2": [Reply(204, {"content-type": "application/json"}, body, cut=False)],
        "4": [Reply(status, {}, b"", cut=False) for status in (400, 403, 409)],
        "5": [
            Reply(503, {}, b"", cut=False),
            *(Reply(s, {}, b"", cut=False) for s in (401, 429)),
            NoReply("gone"),
        ],
    }
    for answer, told, judged in only_table("answers"):
        for reply in examples[answer[0]]:
            for kind in WebhookKind:
                said = judged if kind is WebhookKind.GATE else told
                assert webhooks.understood(reply, kind).verdict is words[said]


def test_the_table_of_scorers_is_complete():
    assert [code(row[0])[0] for row in only_table("scorers")] == [name.value for name in ScorerName]


def test_the_numbers_of_the_page_are_those_of_the_code():
    text = " ".join(PAGE.read_text().split())
    assert f"The first {webhooks.SHOWN} characters" in text
    assert (
        f"up to {deliveries.LONGEST.total_seconds() / 60:.0f} minutes; after {deliveries.TRIES} tries" in text
    )
    assert f"again after {deliveries.FIRST.total_seconds():g} s" in text
