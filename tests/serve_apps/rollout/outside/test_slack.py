from __future__ import annotations

import asyncio
import json

import pytest

from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import Slack
from serve_apps.rollout.outside.slack import SlackClient, text
from tests.serve_apps.rollout.outside.outsiders import hangs, moment, outsider, says


def deliver(handler, timeout="20s"):
    async def scenario():
        async with outsider(handler) as server:
            config = Slack.model_validate({"timeout": timeout})
            client = SlackClient(config, server.session, {"LINNET_SLACK_URL": f"{server.url}/services/T0/B0"})
            return await client.deliver(moment(phase="promoted")), server.received

    return asyncio.run(scenario())


def test_the_message_has_phases_weights_and_the_event():
    told = moment(
        phase="rolled_back",
        weight=0.0,
        weight_before=25.0,
        event="error_rate 3.1% of 412 answers, at most 1.5 times stable's 1.0% of 1,236",
    )
    assert text(told) == (
        "smollm2: rollout 7 of v3 is rolled_back, was progressing (step 2, weight 25% to 0%). "
        "error_rate 3.1% of 412 answers, at most 1.5 times stable's 1.0% of 1,236"
    )


def test_the_first_message_has_nothing_before():
    assert "is pending (step 0, weight 1%)" in text(
        moment(phase="pending", step=0, weight=1.0, phase_before=None, weight_before=None)
    )


def test_nothing_becomes_a_link_or_a_mention():
    assert text(moment(event="<!channel> & <http://x|y>")).endswith(
        "&lt;!channel&gt; &amp; &lt;http://x|y&gt;"
    )


def test_only_changes_of_phase_are_told():
    client = SlackClient(Slack(), session=None, environ={"LINNET_SLACK_URL": "https://example.com/x"})
    assert not client.wants(moment(phase="progressing", phase_before="progressing"))
    assert client.wants(moment(phase="promoted", phase_before="progressing"))
    assert client.wants(moment(phase="pending", phase_before=None))


def test_it_is_sent_as_slack_takes_it():
    outcome, [(headers, body)] = deliver(says(200, "ok"))
    assert outcome is None
    assert headers["content-type"] == "application/json"
    assert json.loads(body) == {"text": text(moment(phase="promoted"))}


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (says(403, "invalid_token"), "it answered 403: invalid_token"),
        (says(302, Location="/"), "the answer is a redirect (302), which is not followed"),
        (hangs, "there was no whole answer within 0.2 s"),
    ],
)
def test_what_was_not_taken_says_why(handler, reason):
    assert deliver(handler, timeout="200ms" if handler is hangs else "20s")[0] == reason


@pytest.mark.parametrize(
    ("environ", "code"),
    [({}, "rollout.no_secret"), ({"LINNET_SLACK_URL": "T0/B0/secret"}, "rollout.slack_url")],
)
def test_a_url_that_is_not_there_or_none_stops_the_start_and_is_not_shown(environ, code):
    with pytest.raises(ConfigError) as caught:
        SlackClient(Slack(), session=None, environ=environ)
    assert caught.value.code == code
    assert "secret" not in caught.value.message


def test_its_name_does_not_tell_the_url():
    client = SlackClient(Slack(), session=None, environ={"LINNET_SLACK_URL": "https://example.com/secret"})
    assert client.name.startswith("slack-")
    assert "secret" not in client.name


def test_another_url_in_the_same_variable_goes_on_where_that_was():
    first, second = (
        SlackClient(Slack(), session=None, environ={"LINNET_SLACK_URL": f"https://example.com/{place}"})
        for place in "ab"
    )
    assert first.name == second.name
