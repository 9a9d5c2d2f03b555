from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import IntegrityError
from serve_apps.rollout.outside.signing import TOLERANCE_S, sign, verify

AT = 1_800_000_000
BODY = b'{"kind": "gate"}'


def test_the_scheme_is_what_the_page_says_it_is():
    expected = hmac.new(b"hush", b"1800000000." + BODY, hashlib.sha256).hexdigest()
    assert sign("hush", AT, BODY) == {
        "x-linnet-timestamp": "1800000000",
        "x-linnet-signature": f"sha256={expected}",
    }


@given(secret=st.text(min_size=1).filter(lambda text: text.isascii()), body=st.binary(max_size=200))
def test_what_is_signed_verifies_and_a_changed_byte_does_not(secret, body):
    headers = {name.title(): value for name, value in sign(secret, AT, body).items()}
    verify(secret, headers, body, now=AT + TOLERANCE_S)
    with pytest.raises(IntegrityError, match="not signed"):
        verify(secret, headers, body + b"x", now=AT)
    with pytest.raises(IntegrityError, match="not signed"):
        verify(secret + "x", headers, body, now=AT)


@pytest.mark.parametrize("off_s", [TOLERANCE_S + 1, -TOLERANCE_S - 1])
def test_an_old_message_and_one_of_the_future_are_refused(off_s):
    with pytest.raises(IntegrityError) as caught:
        verify("hush", sign("hush", AT, BODY), BODY, now=AT + off_s)
    assert caught.value.code == "webhook.stale"


@pytest.mark.parametrize(
    "change",
    [
        {"x-linnet-timestamp": str(AT + 1)},
        {"x-linnet-timestamp": ""},
        {"x-linnet-signature": ""},
        {"x-linnet-signature": "sha256="},
        {"x-linnet-signature": "sha256=ü"},
    ],
)
def test_headers_that_were_changed_are_refused(change):
    with pytest.raises(IntegrityError) as caught:
        verify("hush", sign("hush", AT, BODY) | change, BODY, now=AT)
    assert caught.value.code == "webhook.signature"


def test_a_timestamp_that_is_no_number_is_refused_though_it_is_signed():
    digest = hmac.new(b"hush", b"soon." + BODY, hashlib.sha256).hexdigest()
    headers = {"x-linnet-timestamp": "soon", "x-linnet-signature": f"sha256={digest}"}
    with pytest.raises(IntegrityError, match="not signed"):
        verify("hush", headers, BODY, now=AT)


def test_no_headers_at_all_are_refused():
    with pytest.raises(IntegrityError, match="not signed"):
        verify("hush", {}, BODY, now=AT)
