from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from serve_apps.rollout.outside.config import WebhookKind
from serve_apps.rollout.outside.message import Message
from serve_apps.rollout.outside.placeholders import Names
from tests.serve_apps.rollout.outside.outsiders import moment

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def test_the_same_moment_has_the_same_id_whenever_it_is_sent():
    first = Message.of(moment(4), WebhookKind.EVENT, NOW)
    second = Message.of(moment(4), WebhookKind.EVENT, NOW + timedelta(minutes=1))
    assert first.id == second.id
    assert first.sent_at != second.sent_at


def test_another_moment_rollout_or_kind_has_another_id():
    messages = [
        Message.of(moment(4), WebhookKind.EVENT, NOW),
        Message.of(moment(5), WebhookKind.EVENT, NOW),
        Message.of(moment(4, rollout=8), WebhookKind.EVENT, NOW),
        Message.of(moment(4), WebhookKind.GATE, NOW),
    ]
    assert len({message.id for message in messages}) == 4


def test_it_reads_again_as_it_was_sent():
    message = Message.of(moment(), WebhookKind.CONFIRM_STEP, NOW)
    assert Message.model_validate_json(message.model_dump_json()) == message


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        Message.of(moment(), WebhookKind.EVENT, NOW.replace(tzinfo=None))


def test_placeholders_stand_for_its_names():
    assert moment().names == Names("smollm2", "v3", "v2")
