from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_apps.access_log.config import AccessLogConfig
from serve_apps.access_log.redaction import MARGIN, REDACTED, Redaction, clipped

DEFAULTS = AccessLogConfig().redact
SECRETS = [
    "ann.b+c@mail.example.com",
    "Bearer abcdefgh12345678",
    "bearer  eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_d",
    "sk-proj-abcdefghijklmnop1234",
    "hf_abcdefghijklmnopqrstuv",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_d",
]
AROUND = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(lambda text: f" {text} ")


def window(text: str, max_bytes: int) -> str:
    """What a gateway hands over."""
    return clipped(text, max_bytes + MARGIN)


@pytest.mark.parametrize("secret", SECRETS)
def test_the_defaults_know_secrets(secret):
    redaction = Redaction(DEFAULTS, 1000)
    assert redaction.text(f"it is {secret}, yes") == f"it is {REDACTED}, yes"


@pytest.mark.parametrize(
    "text", ["ask-me-anything", "a @ b", "the bearer of this", "skis", "see example.com"]
)
def test_the_defaults_leave_plain_words(text):
    assert Redaction(DEFAULTS, 1000).text(text) == text


@given(st.sampled_from(SECRETS), AROUND, AROUND, st.integers(1, 150))
def test_wherever_the_cut_is_no_secret_shows_and_the_text_is_short_enough(secret, before, after, max_bytes):
    said = before + secret + after
    kept = Redaction(DEFAULTS, max_bytes).text(window(said, max_bytes))
    assert len(kept.encode()) <= max_bytes
    # A few letters of it would be a leak as well.
    assert secret[:6] not in kept.removeprefix(before)


@given(AROUND)
def test_a_text_without_secrets_is_only_cut(text):
    assert Redaction([], 20).text(text) == clipped(text, 20)


@given(st.sampled_from(SECRETS), AROUND, st.booleans(), st.integers(1, 120))
def test_a_body_may_spell_its_characters_as_it_likes(secret, text, spelled, max_bytes):
    body = json.dumps({"content": text + secret}, ensure_ascii=spelled)
    body = body.replace("@", "\\u0040").replace("A", "\\u0041")
    kept = Redaction(DEFAULTS, max_bytes).body(window(body, max_bytes))
    assert secret[:6] not in kept.replace(text, "")


@given(AROUND)
def test_a_body_remains_the_same_json(text):
    body = json.dumps({"content": text})
    assert json.loads(Redaction([], 10_000).body(body)) == {"content": text}


def test_overlapping_patterns_leave_nothing_between():
    assert Redaction(["abc", "bcd", "d"], 100).text("xabcdex") == f"x{REDACTED}ex"
    assert Redaction(["x*"], 100).text("ab") == "ab"


@pytest.mark.parametrize("unit", ["a", "a.", "a@", "a@a.", "bearer ", "eyJaaaaaaaa.", "sk-", "\\u0061", "\\"])
def test_no_text_takes_long(unit):
    redaction = Redaction(DEFAULTS, 65536)
    text = window(unit * 70_000, 65536)
    began = time.process_time()
    redaction.body(text)
    assert time.process_time() - began < 2
