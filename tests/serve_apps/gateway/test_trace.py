"""The spans that a gateway makes of its requests, in memory and at a collector."""

from __future__ import annotations

import json
import re
import threading

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from serve_apps.tracing.config import TracesConfig
from serve_apps.tracing.otel import OtelTracer
from tests.serve_apps.gateway.servers import begin_stream, chunk, event, eventually
from tests.serve_apps.gateway.test_broken_streams import go_on, tell_and_die
from tests.serve_apps.gateway.test_upstream import drop, never_answer
from tests.serve_apps.tracing.receiver import Receiver

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
ROUTE = "/v1/chat/completions"
SECRET = "the secret garden"


class Traced:
    """A gateway whose spans stay in memory."""

    def __init__(self, launch, *, sample=1.0, **settings) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = OtelTracer(TracesConfig(endpoint="http://unused:4317", sample=sample), self.exporter)
        self.stack = launch(tracer=self.tracer, **settings)

    def ask(self, *, headers=None, **body):
        url = f"{self.stack.url}{ROUTE}"
        body = {"model": "m", "messages": [{"role": "user", "content": SECRET}]} | body
        return httpx.post(url, json=body, headers=headers or {}, timeout=20)

    def spans(self, count, of=None):
        """The server's span and its children in the order of their beginning, once there are as many.

        `of` is an engine, whose last request is meant where there were several.
        """

        def found():
            spans = self.exporter.get_finished_spans()
            return [span for span in spans if of is None or span.context.trace_id == sent(of)[0]]

        eventually(lambda: len(found()) >= count, f"{count} spans")
        assert len(found()) == count
        server, *children = sorted(
            found(), key=lambda span: (span.kind is not SpanKind.SERVER, span.start_time)
        )
        assert server.kind is SpanKind.SERVER
        assert {child.parent.span_id for child in children} <= {server.context.span_id}
        assert {child.context.trace_id for child in children} <= {server.context.trace_id}
        assert all(server.start_time <= c.start_time <= c.end_time <= server.end_time for c in children)
        return server, children


@pytest.fixture
def traced(launch, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    return lambda **settings: Traced(launch, **settings)


def sent(engine):
    """The trace and the span that the engine was told of last, and whether to record."""
    _, trace, span, flags = engine.requests[-1][0]["traceparent"].split("-")
    return int(trace, 16), int(span, 16), bool(int(flags, 16) & 1)


async def with_usage(request, _body):
    response = await begin_stream(request)
    await response.write(chunk("Hello", "v1"))
    ending = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    await response.write(event({"choices": [ending]}) + event({"choices": [], "usage": usage}))
    await response.write(b"data: [DONE]\n\n")
    return response


def test_a_whole_answer_is_one_server_span_with_its_wait_and_its_attempt(traced):
    gateway = traced()
    engine = gateway.stack.engine("v1")
    gateway.stack.policy()
    asked = gateway.ask(headers={"x-request-id": "abc"})
    server, (wait, attempt) = gateway.spans(3)
    assert server.name == attempt.name == f"POST {ROUTE}"
    assert server.parent is None
    assert dict(server.attributes) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "url.path": ROUTE,
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "m:v1",
        "gen_ai.response.finish_reasons": ("stop",),
        "linnet.version": "v1",
        "linnet.request_id": "abc",
        "linnet.retries": 0,
        "linnet.continued": 0,
    }
    assert (wait.name, dict(wait.attributes)) == ("admission", {})
    assert attempt.kind is SpanKind.CLIENT
    assert dict(attempt.attributes) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": engine.port,
        "linnet.replica": engine.base_url,
    }
    assert server.status.status_code is attempt.status.status_code is StatusCode.UNSET
    assert sent(engine) == (server.context.trace_id, attempt.context.span_id, True)
    assert asked.status_code == 200


def test_a_stream_tells_its_tokens_its_end_and_its_first_chunk(traced):
    gateway = traced()
    gateway.stack.engine("v1", with_usage)
    gateway.stack.policy()
    gateway.ask(stream=True)
    server, (_, attempt) = gateway.spans(3)
    told = server.attributes
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (7, 3)
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert told["gen_ai.request.stream"] is True
    assert 0 < told["gen_ai.response.time_to_first_chunk"] < 20
    assert "error.type" not in attempt.attributes


def test_the_callers_trace_goes_on_through_the_gateway_to_the_replica(traced):
    gateway = traced(sample=0.0)
    engine = gateway.stack.engine("v1")
    gateway.stack.policy()
    gateway.ask(headers={"traceparent": TRACEPARENT, "tracestate": "vendor=1"})
    server, (_, attempt) = gateway.spans(3)
    assert server.context.trace_id == int(TRACE, 16)
    assert server.parent.span_id == int(CALLER, 16)
    assert sent(engine) == (int(TRACE, 16), attempt.context.span_id, True)
    assert engine.requests[0][0]["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    ("sample", "headers"),
    [
        (0.0, {}),
        (1.0, {"traceparent": TRACEPARENT[:-1] + "0"}),
        (0.0, {"traceparent": "nonsense", "tracestate": "vendor=1"}),
        (0.0, [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]),
    ],
)
def test_a_request_that_is_not_sampled_leaves_no_span_and_its_replica_is_told(traced, sample, headers):
    gateway = traced(sample=sample)
    engine = gateway.stack.engine("v1")
    gateway.stack.policy()
    gateway.ask(headers=headers)
    trace, span, recorded = sent(engine)
    assert trace
    assert span
    assert not recorded
    assert "tracestate" not in engine.requests[0][0]
    gateway.tracer.stop()
    assert gateway.exporter.get_finished_spans() == ()


def test_each_retry_is_an_attempt_of_its_own(traced):
    gateway = traced()
    bad, good = gateway.stack.engine("v1", drop), gateway.stack.engine("v1")
    gateway.stack.policy()
    while not bad.requests:
        gateway.ask()
    server, (_, first, second) = gateway.spans(4, of=bad)
    assert server.attributes["linnet.retries"] == 1
    assert server.status.status_code is StatusCode.UNSET
    assert (first.attributes["linnet.replica"], first.attributes["error.type"]) == (bad.base_url, "dropped")
    assert first.status.status_code is StatusCode.ERROR
    assert second.attributes["linnet.replica"] == good.base_url
    assert second.attributes["http.request.resend_count"] == 1
    assert sent(good) == (server.context.trace_id, second.context.span_id, True)
    assert sent(bad)[1] == first.context.span_id


def test_a_stream_that_goes_on_elsewhere_shows_both_replicas(traced):
    gateway = traced()
    bad, good = gateway.stack.engine("v1", tell_and_die), gateway.stack.engine("v1", go_on)
    gateway.stack.policy()
    while not bad.requests:
        gateway.ask(stream=True)
    server, (_, broken, rest) = gateway.spans(4, of=bad)
    assert server.attributes["linnet.continued"] == 1
    assert broken.attributes["error.type"] == "ClientPayloadError"
    assert broken.attributes["http.response.status_code"] == 200
    assert rest.attributes["linnet.continues_stream"] is True
    assert "error.type" not in rest.attributes
    assert sent(good)[1] == rest.context.span_id
    assert server.status.status_code is StatusCode.UNSET


def test_a_stream_that_ends_with_an_error_event_is_an_error(traced):
    gateway = traced()
    gateway.stack.engine("v1", tell_and_die)
    gateway.stack.policy()
    gateway.ask(stream=True)
    server, _ = gateway.spans(3)
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["error.type"] == "no_replica"
    assert server.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("body", "status", "code", "outcome"),
    [
        ({"model": "n"}, 404, "model_not_found", StatusCode.UNSET),
        ({}, 503, "no_stable_version", StatusCode.ERROR),
    ],
)
def test_a_refusal_is_a_span_with_its_code_and_without_a_model(traced, body, status, code, outcome):
    gateway = traced()
    gateway.stack.engine("v1")
    gateway.ask(**body)
    server, children = gateway.spans(1)
    assert children == []
    assert server.attributes["http.response.status_code"] == status
    assert server.attributes["error.type"] == code
    assert server.status.status_code is outcome
    assert not [name for name in server.attributes if name in ("gen_ai.request.model", "linnet.version")]


def test_a_request_turned_away_from_the_line_shows_how_long_it_stood_there(traced):
    gateway = traced(max_in_flight=1, queue_wait_s=0.05)
    engine, release = gateway.stack.held_engine("v1")
    gateway.stack.policy()
    unsampled = {"traceparent": TRACEPARENT[:-1] + "0"}
    caller = threading.Thread(target=gateway.ask, kwargs={"headers": unsampled})
    caller.start()
    eventually(lambda: engine.requests, "one is under way")
    assert gateway.ask().status_code == 429
    server, (wait,) = gateway.spans(2)
    assert wait.attributes["error.type"] == server.attributes["error.type"] == "overloaded"
    assert wait.end_time - wait.start_time >= 0.04e9
    gateway.stack.loop.loop.call_soon_threadsafe(release.set)
    caller.join(20)


def test_a_caller_who_hangs_up_is_no_error(traced):
    gateway = traced()
    engine = gateway.stack.engine("v1", never_answer)
    gateway.stack.policy()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(gateway.stack.url + ROUTE, json={"model": "m"}, timeout=0.5)
    assert engine.gone.wait(20)
    server, (_, attempt) = gateway.spans(3)
    assert (server.attributes["http.response.status_code"], server.attributes["error.type"]) == (499, "499")
    assert attempt.attributes["error.type"] == "cancelled"
    assert server.status.status_code is attempt.status.status_code is StatusCode.UNSET


def test_a_caller_who_leaves_in_mid_stream_cancels_its_attempt(traced):
    async def endless(request, _body):
        response = await begin_stream(request)
        await response.write(chunk("Hello", "v1"))
        return await never_answer(request, _body)

    gateway = traced()
    engine = gateway.stack.engine("v1", endless)
    gateway.stack.policy()
    with httpx.stream("POST", gateway.stack.url + ROUTE, json={"model": "m", "stream": True}) as answer:
        next(answer.iter_raw())
    assert engine.gone.wait(20)
    server, (_, attempt) = gateway.spans(3)
    assert server.attributes["error.type"] == "499"
    assert attempt.attributes["error.type"] == "cancelled"


def test_no_span_holds_a_prompt_an_answer_or_a_key(traced):
    gateway = traced(access_log={"prompts": "all", "flush_s": 0.02})
    gateway.stack.engine("v1")
    gateway.stack.policy()
    secret_key = "sk-linnet-abcdefgh"
    for body in ({}, {"stream": True}, {"model": SECRET}, {"user": SECRET}, {"model": 5}):
        gateway.ask(headers={"authorization": f"Bearer {secret_key}", "x-linnet-key": SECRET}, **body)
    eventually(lambda: len(gateway.exporter.get_finished_spans()) >= 11, "all are traced")
    text = "".join(span.to_json() for span in gateway.exporter.get_finished_spans())
    assert "gen_ai.operation.name" in text
    assert not re.findall(f"{SECRET}|{secret_key}|Hello", text)


def test_without_configuration_the_callers_own_headers_pass_through(stack):
    httpx.post(
        stack.url + ROUTE, json={"model": "m"}, headers={"traceparent": TRACEPARENT, "tracestate": "a=1"}
    )
    told = stack.engines[0].requests[0][0]
    assert (told["traceparent"], told["tracestate"]) == (TRACEPARENT, "a=1")


def test_a_collector_gets_the_spans_of_a_real_gateway(launch, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    receiver = Receiver()
    try:
        config = TracesConfig(endpoint=receiver.url, protocol="http/protobuf")
        stack = launch(tracer=OtelTracer(config))
        stack.engine("v1")
        stack.policy()
        httpx.post(stack.url + ROUTE, json={"model": "m"}, headers={"traceparent": TRACEPARENT})
        eventually(lambda: len(receiver.spans()) == 3, "three spans came")
    finally:
        receiver.close()
    server = next(span for span in receiver.spans() if span.kind == span.SPAN_KIND_SERVER)
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, CALLER)
    named = {a.key: a.value.string_value for a in receiver.requests[0].resource_spans[0].resource.attributes}
    assert named["service.name"] == "linnet-gateway"
    assert named["deployment.environment.name"] == "test"


def test_a_dead_collector_costs_callers_nothing_and_is_counted(launch, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    receiver = Receiver()
    receiver.close()
    tracer = OtelTracer(TracesConfig(endpoint=receiver.url, protocol="http/protobuf"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")
    stack = launch(tracer=tracer)
    stack.engine("v1")
    stack.policy()
    statuses = [httpx.post(stack.url + ROUTE, json={"model": "m"}).status_code for _ in range(5)]
    assert statuses == [200] * 5

    def lost() -> int:
        text = httpx.get(f"{stack.url}/metrics").text
        return int(float(re.search(r"^linnet_gateway_spans_lost_total (.*)$", text, re.MULTILINE)[1]))

    eventually(lambda: lost() == 15, "all 15 spans are counted as lost")
    assert json.loads(httpx.get(f"{stack.url}/healthz").text) == {"status": "ok"}
