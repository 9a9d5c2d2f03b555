"""Tasks that are changed while callers ask."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from functools import partial

import httpx
import openai
import pytest

from cluster.errors import ConfigError
from serve_apps.gateway.tasks import TaskTable
from tests.serve_apps.gateway.servers import eventually
from tests.serve_apps.gateway.task_engine import HELLO, TASKS, ask, obey, start, text_of


@pytest.fixture
def begin(launch):
    return partial(start, launch)


def test_a_change_holds_for_what_comes_after_it(begin, loop_thread):
    release = asyncio.Event()

    async def hold(request, body):
        await release.wait()
        return await obey(request, body)

    stack = begin()
    slow = stack.engine("v2", hold)
    old: list[str] = []
    caller = threading.Thread(target=lambda: old.append(text_of(ask(stack, "m:v2/sentiment"))))
    caller.start()
    eventually(lambda: slow.requests, "the request is under way")
    stack.tasks.change({"tasks": {"m": {"mood": {"system": "New.", "output": {"choices": ["happy"]}}}}})
    assert text_of(ask(stack, "m/mood")) == "happy"
    with pytest.raises(openai.NotFoundError):
        ask(stack)
    loop_thread.loop.call_soon_threadsafe(release.set)
    caller.join(20)
    assert old == ["positive"]


def test_under_load_each_answer_belongs_wholly_to_one_task(begin):
    stack = begin()
    stack.engine("v1", obey)
    stop, wrong, counted = threading.Event(), [], {"old": 0, "new": 0}

    def settings(name):
        # What the grammar holds the engine to and what the gateway checks must be of the same task.
        return {"m": {"swapped": {"system": name, "max_tokens": len(name), "output": {"choices": [name]}}}}

    def call(number):
        with httpx.Client(timeout=20) as client:
            while not stop.is_set():
                body = {"model": "m/swapped", "messages": HELLO, "stream": number % 2 == 0}
                answer = client.post(f"{stack.url}/v1/chat/completions", json=body)
                told = [name for name in counted if told_name(answer) == name]
                if answer.status_code != 200 or len(told) != 1:
                    wrong.append(answer.text)
                else:
                    counted[told[0]] += 1

    stack.tasks.change({"tasks": settings("old")})
    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for number in range(60):
        name = ("new", "old")[number % 2]
        before = counted[name]
        stack.tasks.change({"tasks": settings(name)})
        eventually(lambda name=name, before=before: counted[name] > before or wrong, "a caller sees it")
    stop.set()
    for caller in callers:
        caller.join(20)
    assert wrong == []
    for engine in stack.engines:
        for _, raw in engine.requests:
            sent = json.loads(raw)
            [name] = sent["structured_outputs"]["choice"]
            assert sent["messages"][0]["content"] == name


def told_name(answer):
    """The text of an answer, whole or streamed."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json()["choices"][0]["message"]["content"]
    *events, done, _ = answer.text.split("\n\n")
    assert done == "data: [DONE]"
    return "".join(json.loads(one.removeprefix("data: "))["choices"][0]["delta"]["content"] for one in events)


def test_a_bad_change_is_refused_and_the_former_tasks_stay(begin, caplog):
    stack = begin()
    assert "linnet_gateway_tasks_stale 0.0" in httpx.get(f"{stack.url}/metrics").text
    with caplog.at_level(logging.ERROR):
        stack.tasks.change({"tasks": {"m": {"sentiment": {"systen": "Judge."}}}})
    assert "Did you mean `system`?" in caplog.text
    assert "linnet_gateway_tasks_stale 1.0" in httpx.get(f"{stack.url}/metrics").text
    assert text_of(ask(stack)) == "positive"
    stack.tasks.change({})
    assert "linnet_gateway_tasks_stale 0.0" in httpx.get(f"{stack.url}/metrics").text
    with pytest.raises(openai.NotFoundError):
        ask(stack)


def test_a_gateway_does_not_start_with_tasks_that_are_none():
    table = TaskTable(["m"])
    with pytest.raises(ConfigError, match="not serve"):
        table.change({"tasks": {"n": TASKS}})
    table.change({"tasks": {"m": TASKS}})
    assert table.of("m") == ["m/chat", "m/sentiment"]
