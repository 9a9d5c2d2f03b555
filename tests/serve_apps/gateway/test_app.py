from __future__ import annotations

import json
import socket
import subprocess
import sys

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serve_apps.gateway.servers import begin_stream, chunk, eventually

HELLO = [{"role": "user", "content": "Hello?"}]


def post(stack, body=None, path="/v1/chat/completions", **options):
    content = options.pop("content", None) or json.dumps(body).encode()
    headers = {"content-type": "application/json"} | options.pop("headers", {})
    return httpx.post(f"{stack.url}{path}", content=content, headers=headers, **options)


def assert_envelope(response, status, code):
    assert response.status_code == status
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error


def test_chat_and_completions_are_answered(stack):
    client = stack.client()
    assert client.chat.completions.create(model="m", messages=HELLO).choices[0].message.content == (
        "Hello from v1"
    )
    assert client.completions.create(model="m", prompt="Hello?").choices[0].text == "Hello from v1"


def test_a_stream_arrives_as_the_client_expects_it(stack):
    raw = stack.client().chat.completions.with_raw_response.create(model="m", messages=HELLO, stream=True)
    text = "".join(chunk.choices[0].delta.content for chunk in raw.parse())
    assert text == "Hello from v1"
    assert raw.headers["x-linnet-version"] == "v1"
    assert raw.headers["x-request-id"]
    eventually(lambda: stack.metric("linnet_gateway_ttft_seconds_count", version="v1") == 1, "TTFT counted")


def test_the_body_goes_through_byte_for_byte(stack):
    body = b'{ "model" : "m",\n "messages": [], "vllm_extra": {"\\u00e9": 1e3}, "x": "\xc3\xa9" }'
    answer = post(stack, content=body)
    assert stack.engines[0].requests[0][1] == body
    assert answer.headers["x-engine"] == "yes"
    assert answer.headers.get_list("x-request-id") == [stack.engines[0].requests[0][0]["x-request-id"]]
    assert answer.headers.get_list("server") == ["uvicorn"]


def test_a_large_body_goes_through_and_a_larger_one_is_refused(launch):
    stack = launch(max_body_bytes=3_000_000)
    stack.engine("v1")
    stack.policy()
    large = {"model": "m", "messages": [{"role": "user", "content": "x" * 2_500_000}]}
    assert post(stack, large).status_code == 200
    assert len(stack.engines[0].requests[0][1]) > 2_500_000
    fifty = b"x" * 50_000_000
    assert_envelope(post(stack, content=fifty), 413, "request_too_large")

    def parts():
        for _ in range(50):
            yield b"x" * 100_000

    assert_envelope(httpx.post(f"{stack.url}/v1/chat/completions", content=parts()), 413, "request_too_large")
    with pytest.raises(openai.APIStatusError) as caught:
        stack.client().completions.create(model="m", prompt="x" * 4_000_000)
    assert caught.value.status_code == 413
    assert len(stack.engines[0].requests) == 1


def connect(stack):
    return socket.create_connection(("127.0.0.1", int(stack.url.rsplit(":", 1)[1])), timeout=20)


def test_a_body_that_trickles_in_is_refused_in_time(launch):
    stack = launch(body_timeout_s=0.3)
    stack.engine("v1")
    stack.policy()
    with connect(stack) as caller:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        caller.sendall(head + b'{"model": ')
        answer = b""
        while b"request_too_slow" not in answer:
            answer += caller.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert not stack.engines[0].requests


def test_a_caller_who_stops_reading_is_hung_up_on_and_the_engine_stops(launch):
    async def flood(request, _body):
        response = await begin_stream(request)
        while True:
            await response.write(chunk("x" * 65536, "v1"))

    stack = launch(reader_timeout_s=0.5)
    engine = stack.engine("v1", flood)
    stack.policy()
    body = b'{"model": "m", "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with connect(stack) as caller:
        caller.sendall(head + body)
        assert engine.gone.wait(20)
        eventually(lambda: stack.metric("linnet_gateway_in_flight", version="v1") == 0, "nothing in flight")
    assert stack.metric("linnet_gateway_requests_total", status="499") == 1


def test_two_thousand_idle_connections_hold_nobody_up(stack):
    idle = []
    try:
        for _ in range(2000):
            idle.append(connect(stack))
        assert stack.client().chat.completions.create(model="m", messages=HELLO).model == "v1"
    finally:
        for connection in idle:
            connection.close()


def test_pins_by_header_and_by_name(stack):
    client = stack.client()
    by_header = client.chat.completions.with_raw_response.create(
        model="m", messages=HELLO, extra_headers={"x-linnet-version": "v2"}
    )
    assert by_header.headers["x-linnet-version"] == "v2"
    assert client.chat.completions.create(model="m:v2", messages=HELLO).model == "v2"
    assert [engine.version for engine in stack.engines if engine.requests] == ["v2"]


def test_models_are_listed_with_their_versions(stack):
    assert [model.id for model in stack.client().models.list()] == ["m", "m:v1", "m:v2"]


def test_an_unknown_model_or_version_lists_what_is_served(stack):
    client = stack.client()
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="mm", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "Did you mean `m`?" in caught.value.message
    with pytest.raises(openai.NotFoundError, match="m:v1, m:v2"):
        client.chat.completions.create(model="m:v3", messages=HELLO)
    with pytest.raises(openai.NotFoundError, match="v1, v2") as caught:
        client.chat.completions.create(model="m", messages=HELLO, extra_headers={"x-linnet-version": "v3"})
    assert caught.value.code == "version_not_found"
    assert not any(engine.requests for engine in stack.engines)


def test_bad_bodies_raise_bad_request(stack):
    assert_envelope(post(stack, content=b"{nope"), 400, "invalid_json")
    assert assert_envelope(post(stack, {"model": 5}), 400, "invalid_type")["param"] == "model"
    assert_envelope(post(stack, ["m"]), 400, "invalid_type")
    with pytest.raises(openai.BadRequestError):
        stack.client().chat.completions.create(model=5, messages=HELLO)


def test_unknown_paths_and_methods_are_refused_in_the_envelope(stack):
    error = assert_envelope(httpx.get(f"{stack.url}/v1/model"), 404, "unknown_url")
    assert "Did you mean `/v1/models`?" in error["message"]
    with pytest.raises(openai.NotFoundError):
        stack.client().images.generate(model="m", prompt="x")
    answer = httpx.get(f"{stack.url}/v1/chat/completions")
    assert_envelope(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"
    assert_envelope(httpx.post(f"{stack.url}/v1/models"), 405, "method_not_allowed")


def test_health_and_readiness(launch):
    stack = launch()
    stack.directory.heard = False
    assert httpx.get(f"{stack.url}/healthz").status_code == 200
    assert "cluster" in assert_envelope(httpx.get(f"{stack.url}/readyz"), 503, "not_ready")["message"]
    stack.directory.heard = True
    assert "stable" in assert_envelope(httpx.get(f"{stack.url}/readyz"), 503, "not_ready")["message"]
    stack.policy()
    answer = httpx.get(f"{stack.url}/readyz")
    assert "m:v1 has no replica" in assert_envelope(answer, 503, "not_ready")["message"]
    assert answer.headers["retry-after"] == "1"
    stack.engine("v1")
    assert httpx.get(f"{stack.url}/readyz").status_code == 200


def test_no_stable_version_and_no_replica_are_503_with_retry_after(launch):
    stack = launch(replica_wait_s=0.1)
    stack.directory.put("m", "v1")
    answer = post(stack, {"model": "m"})
    assert_envelope(answer, 503, "no_stable_version")
    stack.policy()
    answer = post(stack, {"model": "m"})
    assert_envelope(answer, 503, "no_replica")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-linnet-version"] == "v1"
    with pytest.raises(openai.InternalServerError):
        stack.client().chat.completions.create(model="m", messages=HELLO)


def test_odd_headers_neither_break_the_gateway_nor_reach_the_engine(stack):
    body = json.dumps({"model": "m"}).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"X-Odd: caf\xc3\xa9 \xff\r\nX-Linnet-Key: \xff\xfe\r\nX-Request-Id: a b<script>\r\n"
        b"X-Plain: fine\r\nAuthorization: Bearer \xff\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    answer = speak(stack, head + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"script" not in answer
    sent = stack.engines[0].requests[0][0]
    assert sent["x-plain"] == "fine"
    assert not {"x-hop", "x-odd", "x-linnet-key", "authorization"} & set(sent)


@pytest.mark.parametrize(
    "line",
    [b"X-Linnet-Version: v1\rX-Evil: 1", b"X-Linnet-Version: v1\x00", b"X Bad: 1", b"X-Request-Id: a\r b"],
)
def test_header_injection_never_reaches_an_answer_or_an_engine(stack, line):
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + line + b"\r\nContent-Length: 2\r\n\r\n{}"
    answer = speak(stack, head)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"X-Evil" not in answer
    assert not stack.engines[0].requests


def speak(stack, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", int(stack.url.rsplit(":", 1)[1])), timeout=20) as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
            if b"Invalid" in answer or answer.endswith(b"}"):
                break
        return answer


def test_metrics_count_by_bounded_labels(stack):
    stack.client().chat.completions.create(model="m", messages=HELLO)
    for number in range(5):
        post(stack, {"model": f"unknown-{number}"})
        post(stack, {"model": "m"}, headers={"x-linnet-version": f"unknown-{number}"})
        httpx.get(f"{stack.url}/unknown-{number}")
    text = httpx.get(f"{stack.url}/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        tuple(sample.labels[name] for name in ("model", "version", "route", "status")): sample.value
        for sample in families["linnet_gateway_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counted == {
        ("m", "v1", "/v1/chat/completions", "200"): 1,
        ("none", "none", "/v1/chat/completions", "404"): 10,
    }
    assert stack.metric("linnet_gateway_in_flight", model="m") == 0
    assert stack.metric("linnet_gateway_duration_seconds_count", version="v1") == 1
    assert "unknown" not in text


def test_importing_the_gateway_loads_no_engine_and_no_ray():
    code = (
        "import sys, serve_apps.gateway.app;"
        "print(*{'ray', 'torch', 'transformers', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
