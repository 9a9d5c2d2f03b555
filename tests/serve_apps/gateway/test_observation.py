from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from aiohttp import web

from cluster.storage import Storage
from serve_apps.access_log.query import AccessLogs, Wanted
from serve_apps.access_log.spool import spool_dir
from serve_apps.gateway.observation import Notes, key_hash
from serve_apps.replay.wire import End, Told, Way, comment, unpack
from tests.serve_apps.gateway.servers import begin_stream, chunk, event

HELLO = [{"role": "user", "content": "Hello?"}]
USAGE = {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}


def ask(stack, **options):
    return stack.client().chat.completions.create(**{"model": "m", "messages": HELLO} | options)


async def whole(_request, _body):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}
    return web.json_response(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [choice],
            "usage": USAGE,
        }
    )


async def told(request, _body):
    """Three tokens, told as a replica tells them."""
    response = await begin_stream(request)
    await response.write(comment(Told(steps=[[4]], way=Way.PREFILL)) + chunk("Hel", "v1"))
    await response.write(comment(Told(steps=[[5]])) + chunk("lo ", "v1"))
    await response.write(comment(Told(steps=[[6]], end=End("length"))) + chunk("you", "v1"))
    await response.write(b"data: [DONE]\n\n")
    return response


def test_a_whole_answer(launch):
    stack = launch()
    stack.engine("v1", whole)
    stack.policy()
    before = datetime.now(UTC)
    answer = stack.client().chat.completions.with_raw_response.create(model="m", messages=HELLO)
    [row] = stack.rows(1)
    assert before <= row.pop("at") <= datetime.now(UTC)
    assert 0 < row.pop("e2e_s") < 20
    assert row == {
        "request_id": answer.headers["x-request-id"],
        "model": "m",
        "version": "v1",
        "route": "/v1/chat/completions",
        "key_hash": hashlib.sha256(b"secret").hexdigest()[:16],
        "stream": False,
        "status": 200,
        "error_code": "",
        "ttft_s": None,
        "itl_s": None,
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "finish_reason": "stop",
        "retries": 0,
        "continued": 0,
        "task": "",
        "prompt": None,
        "answer": None,
    }


def test_a_stream_counts_the_tokens_that_its_replica_tells(launch):
    stack = launch()
    stack.engine("v1", told)
    stack.policy()
    list(ask(stack, stream=True))
    [row] = stack.rows(1)
    assert (row["stream"], row["status"], row["error_code"]) == (True, 200, "")
    assert (row["completion_tokens"], row["prompt_tokens"], row["finish_reason"]) == (3, None, "length")
    assert 0 < row["ttft_s"] < row["e2e_s"]
    assert row["itl_s"] == pytest.approx((row["e2e_s"] - row["ttft_s"]) / 2, abs=2e-6)


def test_a_stream_that_tells_nothing_is_counted_by_its_usage(launch):
    async def with_usage(request, _body):
        response = await begin_stream(request)
        for text in ("a", "b", "c"):
            await response.write(chunk(text, "v1"))
        await response.write(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
        await response.write(event({"choices": [], "usage": USAGE}))
        await response.write(b"data: [DONE]\n\n")
        return response

    stack = launch()
    stack.engine("v1", with_usage)
    stack.policy()
    list(ask(stack, stream=True))
    [row] = stack.rows(1)
    assert (row["prompt_tokens"], row["completion_tokens"], row["finish_reason"]) == (5, 3, "stop")
    assert row["itl_s"] is not None


def test_refusals_are_rows_with_their_code(stack):
    with pytest.raises(openai.NotFoundError):
        ask(stack, model="other")
    httpx.post(f"{stack.url}/v1/completions", content=b"{nope", headers={"x-request-id": "mine"})
    broken, unknown = stack.rows(2)
    assert (broken["request_id"], broken["status"], broken["error_code"]) == ("mine", 400, "invalid_json")
    assert (broken["key_hash"], broken["route"]) == ("", "/v1/completions")
    assert (unknown["status"], unknown["error_code"]) == (404, "model_not_found")
    assert {(row["model"], row["version"]) for row in (broken, unknown)} == {("none", "none")}


def test_an_error_of_the_engine_has_no_code_of_the_gateways(launch):
    async def too_long(_request, _body):
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    stack = launch()
    stack.engine("v1", too_long)
    stack.policy()
    with pytest.raises(openai.BadRequestError):
        ask(stack)
    [row] = stack.rows(1)
    assert (row["status"], row["error_code"], row["version"]) == (400, "", "v1")


def test_a_caller_who_hangs_up_is_a_row_with_499(launch):
    async def begin_and_stall(request, _body):
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[4], [5]], way=Way.PREFILL)) + chunk("Hel", "v1"))
        await asyncio.Event().wait()

    stack = launch()
    stack.engine("v1", begin_and_stall)
    stack.policy()
    with httpx.stream(
        "POST", f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True}
    ) as answer:
        next(answer.iter_bytes())
    [row] = stack.rows(1)
    assert (row["status"], row["stream"], row["completion_tokens"], row["itl_s"]) == (499, True, 2, None)
    assert row["ttft_s"] > 0


def test_retries_continued_streams_and_broken_ones(launch):
    async def tell_and_die(request, _body):
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[7]], way=Way.PREFILL)) + chunk("Hel", "v1"))
        request.transport.abort()
        return response

    async def drop(request, _body):
        request.transport.abort()
        return web.Response()

    async def go_on(request, _body):
        resume, _ = unpack(await request.read())
        assert resume.steps == [[7]]
        response = await begin_stream(request)
        await response.write(comment(Told(steps=[[8]])) + chunk("lo", "v1") + b"data: [DONE]\n\n")
        return response

    stack = launch()
    stack.engine("v1", tell_and_die)
    stack.policy()
    raw = httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True}).content
    assert b"[DONE]" not in raw
    [row] = stack.rows(1)
    assert (row["status"], row["error_code"], row["continued"]) == (200, "no_replica", 0)
    stack.engine("v1", drop)
    stack.engine("v1", go_on)
    seen = {(row["retries"], row["continued"])}
    while (1, 1) not in seen:
        httpx.post(f"{stack.url}/v1/chat/completions", json={"model": "m", "stream": True})
        seen |= {(row["retries"], row["continued"]) for row in log_of(stack)}
    done = [row for row in log_of(stack) if row["continued"]]
    assert {row["completion_tokens"] for row in done} == {2}


def log_of(stack):
    logs = AccessLogs(Storage(stack.settings.root), spool_dir(stack.settings))
    return logs.newest(Wanted(), 1000).to_pylist()


def test_prompts_and_answers_are_kept_where_the_spec_asks_for_it_and_redacted(launch):
    stack = launch(access_log={"flush_s": 0.02, "prompts": "all", "max_text_bytes": 200})
    stack.engine("v1")
    stack.policy()
    said = [{"role": "user", "content": "I am ann@example.com, my key is sk-abcdefghijklmnopqrstuvwx."}]
    ask(stack, messages=said)
    list(ask(stack, messages=said, stream=True))
    for row in stack.rows(2):
        assert row["answer"] == "Hello from v1"
        kept = json.loads(row["prompt"])
        assert kept["messages"][0]["content"] == "I am [redacted], my key is [redacted]."


def test_nothing_of_a_prompt_or_an_answer_is_on_the_disk_by_default(stack, tmp_path):
    ask(stack, messages=[{"role": "user", "content": "a-very-private-word"}])
    list(ask(stack, stream=True))
    stack.rows(2)
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        assert b"a-very-private-word" not in content
        assert b"Hello from" not in content
        assert b"secret" not in content


def test_a_sample_keeps_some(launch):
    stack = launch(access_log={"flush_s": 0.02, "prompts": "sampled", "sample_rate": 0.5})
    stack.engine("v1")
    stack.policy()
    kept = set()
    count = 0
    while kept != {True, False}:
        ask(stack)
        count += 1
        kept = {row["prompt"] is not None for row in stack.rows(count)}


def test_a_gateway_without_a_log_works_as_ever(launch, tmp_path):
    stack = launch(access_log={"enabled": False})
    stack.engine("v1")
    stack.policy()
    ask(stack)
    assert not (tmp_path / "spool").exists()
    assert not (tmp_path / "logs").exists()


def test_the_dropped_rows_have_their_metric(stack):
    ask(stack)
    assert b"linnet_gateway_log_rows_dropped_total 0.0" in httpx.get(f"{stack.url}/metrics").content


def test_the_key_of_the_hash_is_the_token_alone():
    digest = hashlib.sha256(b"sk-1").hexdigest()[:16]
    assert key_hash([(b"authorization", b"Bearer sk-1")]) == digest
    assert key_hash([(b"host", b"x"), (b"authorization", b"bearer  sk-1 ")]) == digest
    assert key_hash([(b"authorization", b"Basic sk-1")]) == ""
    assert key_hash([]) == ""


def test_the_time_between_tokens_is_unknown_for_fewer_than_two():
    notes = Notes([], b"id", "/v1/completions")
    stream = notes.streams(0.5)
    stream.take(comment(Told(steps=[[1]], way=Way.PREFILL)) + event({}) + b"data: [DONE]\n\n")
    row = notes.finish("m", "v1", 200, 1.0)
    assert (row.completion_tokens, row.itl_s, row.ttft_s) == (1, None, 0.5)
    assert datetime.now(UTC) - row.at < timedelta(minutes=1)


def test_a_request_shows_while_its_gateway_runs_and_is_parquet_once_it_has_stopped(launch, tmp_path):
    stack = launch(access_log={"flush_s": 0.02, "rotate_rows": 2})
    stack.engine("v1")
    stack.policy()
    for _ in range(3):
        ask(stack)
    assert len({row["request_id"] for row in stack.rows(3)}) == 3
    for client in stack.clients:
        client.close()
    stack.server.stop()
    assert list(spool_dir(stack.settings).iterdir()) == []
    assert len(stack.rows(3)) == 3


def test_a_fault_of_the_gateway_is_a_row_too(stack, monkeypatch):
    monkeypatch.setattr(stack.cache, "get", lambda _model: 1 / 0)
    with pytest.raises(openai.InternalServerError):
        ask(stack)
    [row] = stack.rows(1)
    assert (row["status"], row["error_code"], row["model"]) == (500, "internal_error", "none")


def test_a_body_that_is_too_large_has_no_prompt(launch):
    stack = launch(max_body_bytes=10, access_log={"flush_s": 0.02, "prompts": "all"})
    assert httpx.post(f"{stack.url}/v1/completions", content=b"x" * 11).status_code == 413
    [row] = stack.rows(1)
    assert (row["status"], row["error_code"], row["prompt"], row["answer"]) == (
        413,
        "request_too_large",
        None,
        "",
    )
