"""Rows for the access log's tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import strategies as st

from serve_apps.gateway.observation import Observation

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SECONDS = st.floats(0, 1e6)
COUNT = st.integers(0, 10**12)

rows = st.builds(
    Observation,
    at=st.datetimes(datetime(2026, 11, 20), datetime(2026, 11, 23), timezones=st.just(UTC)),
    request_id=st.sampled_from(["a", "b", "c.d-e_f"]),
    model=st.sampled_from(["m", "n"]),
    version=st.sampled_from(["v1", "v2", "v1.2.0-canary"]),
    route=st.sampled_from(["/v1/completions", "/tokenize"]),
    key_hash=st.sampled_from(["", "12ab", "12cd", "9f00"]),
    stream=st.booleans(),
    status=st.sampled_from([200, 404, 499, 500, 503]),
    error_code=st.sampled_from(["", "no_replica"]),
    ttft_s=st.none() | SECONDS,
    itl_s=st.none() | SECONDS,
    e2e_s=SECONDS,
    prompt_tokens=st.none() | COUNT,
    completion_tokens=st.none() | COUNT,
    finish_reason=st.sampled_from(["", "stop"]),
    retries=st.integers(0, 2),
    continued=st.integers(0, 2),
    task=st.sampled_from(["", "sentiment"]),
    prompt=st.none() | TEXT,
    answer=st.none() | TEXT,
)


def row(second: float = 0.0, **given) -> Observation:
    """A request of `m:v1`, so many seconds after noon."""
    plain = {
        "at": NOON + timedelta(seconds=second),
        "request_id": f"r{second:g}",
        "model": "m",
        "version": "v1",
        "route": "/v1/chat/completions",
        "key_hash": "",
        "stream": False,
        "status": 200,
        "error_code": "",
        "ttft_s": None,
        "itl_s": None,
        "e2e_s": 1.0,
        "prompt_tokens": None,
        "completion_tokens": None,
        "finish_reason": "stop",
        "retries": 0,
        "continued": 0,
    }
    return Observation(**plain | given)


def lines(*given: Observation) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in given)


def plain(given: Observation) -> dict:
    """As a query returns it."""
    return msgspec.structs.asdict(given)
