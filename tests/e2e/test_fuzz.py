"""Ten minutes of requests that nobody meant: every answer is one, none is a 500, and all processes stay."""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.e2e import processes
from tests.e2e.test_same_bodies import CHATS, OTHERS, TEXTS
from tests.support.endpoint import MODEL

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

SECONDS = 600
EXAMPLES = 200
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SOUND = [
    *((CHAT, {"model": MODEL, "max_tokens": 3} | body) for body in CHATS),
    *((TEXT, {"model": MODEL, "max_tokens": 3} | body) for body in TEXTS),
    *((path, {"model": MODEL} | body) for path, body in OTHERS),
]
ROUTES = [
    *{path for path, _ in SOUND},
    "/v1/models",
    "/v1/embeddings",
    "/metrics",
    "/readyz",
    "/v1",
    "/",
    "/v1/x",
]

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=40)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
names = st.sampled_from(sorted({key for _, body in SOUND for key in body})) | st.text(max_size=12)


@st.composite
def spoilt(draw):
    """A sound request of which some parts were changed, added or left out."""
    path, body = draw(st.sampled_from(SOUND))
    body = dict(body)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(names)
        if draw(st.booleans()):
            body[name] = draw(values)
        else:
            body.pop(name, None)
    return "POST", path, json.dumps(body).encode()


raw = st.tuples(
    st.sampled_from(["POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"]),
    st.sampled_from(ROUTES),
    st.binary(max_size=400) | values.map(lambda value: json.dumps(value).encode()),
)
NO_HTTP = b"Invalid HTTP request received."
header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=60)
headers = st.dictionaries(
    st.sampled_from(
        [
            "x-linnet-key",
            "x-linnet-version",
            "x-request-id",
            "authorization",
            "content-type",
            "accept",
            "x-linnet-tell",
        ]
    ),
    header_text,
    max_size=3,
)


def send(endpoint, method, path, body, extra):
    port = urlsplit(endpoint.url).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} | extra)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check(status, body, method):
    assert status != 500, body[:500]
    assert status < 500 or status in (503, 504), body[:500]
    # What is no HTTP, the HTTP server refuses before anything of ours sees it.
    if status == 400 and body == NO_HTTP:
        return
    if status >= 400 and method != "HEAD" and body:
        assert json.loads(body)["error"]["message"], body[:500]


def pids():
    engines = processes.titled("VLLM::EngineCore")
    return {p.pid for p in [*engines, *processes.gateways(), *processes.replicas()]}


def test_ten_minutes_of_nonsense(shared_endpoint, told):
    shared_endpoint.wait_until_serving(["v1", "v2"])
    before = pids()
    statuses: Counter[int] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(spoilt() | raw, headers)
    def fuzz(request, extra):
        method, path, body = request
        status, answer = send(shared_endpoint, method, path, body, extra)
        statuses[status] += 1
        check(status, answer, method)

    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        number += 1
        seed(number)(fuzz)()
    told.append(f"{sum(statuses.values())} spoilt requests: {dict(sorted(statuses.items()))}")
    assert pids() == before
    status, _ = send(shared_endpoint, "POST", TEXT, b'{"model": "%s", "prompt": "a"}' % MODEL.encode(), {})
    assert status == 200
