from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_apps.gateway import headers


def test_what_concerns_one_hop_or_the_gateway_alone_is_not_forwarded():
    sent = [
        (b"host", b"gateway"),
        (b"connection", b"keep-alive, X-Private"),
        (b"x-private", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"3"),
        (b"authorization", b"Bearer secret"),
        (b"cookie", b"a=b"),
        (b"x-request-disconnect-disabled", b"?1"),
        (b"x-linnet-key", b"ada"),
        (b"x-linnet-version", b"v1"),
        (b"content-type", b"application/json"),
        (b"traceparent", b"00-1-2-01"),
    ]
    assert dict(headers.forwarded(sent, b"id-1", "v2")) == {
        "content-type": "application/json",
        "traceparent": "00-1-2-01",
        "x-request-id": "id-1",
        "x-linnet-version": "v2",
    }


def test_what_the_outer_server_writes_is_not_returned():
    got = [
        (b"Date", b"now"),
        (b"Server", b"uvicorn"),
        (b"X-Request-Id", b"inner"),
        (b"Connection", b"close, X-Hop"),
        (b"X-Hop", b"1"),
        (b"Content-Length", b"5"),
        (b"Content-Type", b"application/json"),
        (b"X-Other", b"\xc3\xa9"),
    ]
    assert headers.returned(got) == [(b"content-type", b"application/json"), (b"x-other", b"\xc3\xa9")]


@given(st.binary())
def test_forwarded_values_can_be_written_to_a_wire(value):
    for kept in headers.forwarded([(b"x-any", value)], b"id", "v2").values():
        assert kept.isascii()
        assert not set(kept) & {"\r", "\n", "\0"}


@given(st.binary(max_size=200))
def test_a_request_id_is_a_plain_word_whatever_was_sent(value):
    found = headers.request_id([(b"x-request-id", value)])
    assert 0 < len(found) <= 128
    assert found.replace(b"-", b"").replace(b"_", b"").replace(b".", b"").isalnum() or found == value


def test_a_plain_request_id_is_kept_and_a_missing_one_is_new_each_time():
    assert headers.request_id([(b"x-request-id", b"abc-1")]) == b"abc-1"
    assert headers.request_id([]) != headers.request_id([])
