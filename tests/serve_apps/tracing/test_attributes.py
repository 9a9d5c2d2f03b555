from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.semconv._incubating.attributes import (
    gen_ai_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv.attributes import error_attributes

from serve_apps.gateway.directory import Replica
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.routes import PROXIED
from serve_apps.tracing import attributes

MODULES = (gen_ai_attributes, http_attributes, server_attributes, url_attributes, error_attributes)
CONVENTIONS = {value for module in MODULES for value in vars(module).values() if isinstance(value, str)}
OPERATIONS = {operation.value for operation in gen_ai_attributes.GenAiOperationNameValues}

GOOD = Observation(
    at=datetime(2026, 11, 22, tzinfo=UTC),
    request_id="r",
    model="m",
    version="v1",
    route="/v1/chat/completions",
    key_hash="hash",
    stream=True,
    status=200,
    error_code="",
    ttft_s=0.5,
    itl_s=0.1,
    e2e_s=1.0,
    prompt_tokens=0,
    completion_tokens=4,
    finish_reason="length",
    retries=0,
    continued=0,
    task="chat",
    prompt="secret",
    answer="secret",
)
ROWS = st.builds(
    msgspec.structs.replace,
    st.just(GOOD),
    model=st.sampled_from(["m", "none"]),
    stream=st.booleans(),
    status=st.sampled_from([200, 400, 404, 429, 499, 500, 502, 503]),
    error_code=st.sampled_from(["", "overloaded"]),
    ttft_s=st.none() | st.floats(0, 10),
    prompt_tokens=st.none() | st.integers(0, 9),
    completion_tokens=st.none() | st.integers(0, 9),
    finish_reason=st.sampled_from(["", "stop"]),
    task=st.sampled_from(["", "chat"]),
)


@given(ROWS)
def test_every_name_is_a_convention_or_ours_and_no_text_is_told(row):
    found = attributes.of_end(row)
    assert [name for name in found if name not in CONVENTIONS and not name.startswith("linnet.")] == []
    assert not {"secret", "hash"} & set(found.values())
    assert None not in found.values()
    assert "" not in found.values()
    assert ("gen_ai.request.model" in found) == (row.model != "none")
    assert ("error.type" in found) == (row.status >= 400 or row.error_code != "")


@pytest.mark.parametrize("route", PROXIED)
def test_every_route_begins_with_conventions_alone(route):
    found = attributes.of_request(route)
    assert set(found) <= CONVENTIONS
    assert found["http.route"] == route
    assert found.get("gen_ai.operation.name", "chat") in OPERATIONS


def test_an_attempt_tells_how_many_were_before_it():
    replica = Replica(id="a", base_url="http://h:1")
    first = attributes.of_attempt(replica, "h", 1, 0, goes_on=False)
    second = attributes.of_attempt(replica, "h", 1, 1, goes_on=True)
    assert set(second) - set(first) == {"http.request.resend_count", "linnet.continues_stream"}
    assert {name for name in second if not name.startswith("linnet.")} <= CONVENTIONS


def test_a_count_of_zero_tokens_is_told():
    assert attributes.of_end(GOOD)["gen_ai.usage.input_tokens"] == 0


@pytest.mark.parametrize(
    ("status", "code", "failed"),
    [
        (200, "", False),
        (200, "stream_broken", True),
        (404, "model_not_found", False),
        (429, "overloaded", False),
        (499, "", False),
        (500, "", True),
        (503, "no_replica", True),
    ],
)
def test_only_the_services_own_faults_are_errors(status, code, failed):
    row = msgspec.structs.replace(GOOD, status=status, error_code=code)
    assert attributes.failed(row) is failed
    assert attributes.error_type(row) == (code or ("" if status == 200 else str(status)))
