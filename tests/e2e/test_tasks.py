"""Tasks on a real endpoint: one engine, several purposes, changed by `serve deploy` while callers ask."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import openai
import pytest

from tests.e2e.load import Load
from tests.e2e.test_endpoint import running
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

TASK = f"{MODEL}/sentiment"
CHOICES = ["positive", "negative"]
SENTIMENT = {"system": "Judge it.", "max_tokens": 16, "temperature": 0, "output": {"choices": CHOICES}}
SHORT = {"system": "Be brief.", "max_tokens": 5}
TEXTS = ("I love it.", "I hate it.", "Ünïcödé 🙂", "")


def config(**tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {"tasks": {MODEL: tasks}}


@pytest.fixture(scope="module")
def tasked(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], user_config=config(sentiment=SENTIMENT, short=SHORT))
    shared_endpoint.wait_until_serving(["v1", "v2"])
    wait_for(lambda: TASK in listed(shared_endpoint), "the gateway knows its tasks")
    wait_for(lambda: len(running(f"ServeReplica:{MODEL}-")) == 2, "other tests' replicas are gone", 120)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])
    wait_for(lambda: TASK not in listed(shared_endpoint), "the gateway has no tasks")


@pytest.fixture
def client(tasked) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tasked.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def listed(endpoint: Endpoint) -> list[str]:
    return [card["id"] for card in json.loads(read(f"{endpoint.url}/v1/models"))["data"]]


def pids() -> dict[str, set[int]]:
    """Gateways, replicas and the replicas' engines."""
    replicas = running(f"ServeReplica:{MODEL}-")
    return {
        "gateways": {process.pid for process in running("ServeReplica:gateway")},
        "replicas": {process.pid for process in replicas},
        "engines": {
            child.pid
            for process in replicas
            for child in process.children(recursive=True)
            if child.name().startswith("VLLM")
        },
    }


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": TASK, "messages": messages} | options)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_task_with_choices_gives_one_of_them_whole_and_streamed(client, version, text):
    model = f"{MODEL}:{version}/sentiment"
    whole = ask(client, text, model=model).choices[0]
    assert whole.message.content in CHOICES
    assert whole.finish_reason == "stop"
    parts = [part.choices[0] for part in ask(client, text, model=model, stream=True)]
    assert "".join(part.delta.content or "" for part in parts) == whole.message.content


def test_the_same_engine_serves_another_task(client):
    answer = ask(client, "Hello?", model=f"{MODEL}/short", max_tokens=100)
    assert answer.usage.completion_tokens <= 5
    without = ask(client, "Hello?", model=MODEL, max_tokens=5)
    # A byte is a token of this model: the prompt in front is there, with its role and its marks.
    assert answer.usage.prompt_tokens - without.usage.prompt_tokens >= len(SHORT["system"])


def test_an_answer_that_is_cut_short_is_an_error(client):
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client, "I love it.", max_tokens=3)
    assert (caught.value.status_code, caught.value.code) == (502, "task_output")
    with pytest.raises(openai.APIError) as caught:
        list(ask(client, "I love it.", max_tokens=3, stream=True))
    assert caught.value.code == "task_output"


@dataclass
class TaskLoad(Load):
    """Callers of the task, whole answers and streams in turn."""

    def _ask(self, key: str, *, stream: bool) -> str:
        messages = [{"role": "user", "content": f"call {key}"}]
        body = {"model": TASK, "messages": messages, "stream": stream}
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json", "x-linnet-key": key},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = said(answer.read(), stream=stream)
        assert text in CHOICES, text
        return text


def said(raw: bytes, *, stream: bool) -> str:
    if not stream:
        return json.loads(raw)["choices"][0]["message"]["content"]
    *events, done, end = raw.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b""), raw[-300:]
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def prompt_tokens(client: openai.OpenAI) -> int:
    return ask(client, "I love it.").usage.prompt_tokens


def test_an_edited_prompt_reaches_callers_and_restarts_nothing(tasked, client):
    before, processes = prompt_tokens(client), pids()
    assert all(processes.values())
    longer = SENTIMENT | {"system": SENTIMENT["system"] + " Now."}
    with TaskLoad(url=tasked.url, model=MODEL) as load:
        wait_for(lambda: len(load.answered) > 10, "callers are answered")
        for task, tokens in ((longer, before + len(" Now.")), (SENTIMENT, before)):
            tasked.deploy(["v1", "v2"], user_config=config(sentiment=task, short=SHORT))
            wait_for(
                lambda tokens=tokens: prompt_tokens(client) == tokens, "the edited prompt is in force", 30
            )
        answered = len(load.answered)
        wait_for(lambda: len(load.answered) > answered + 10, "callers are answered on")
    assert load.failures == []
    assert pids() == processes


def test_a_bad_edit_is_refused_and_the_former_tasks_stay(tasked, client):
    processes = pids()
    tasked.deploy(["v1", "v2"], user_config=config(sentiment={"systen": "Judge it."}))
    wait_for(
        lambda: "linnet_gateway_tasks_stale 1.0" in read(f"{tasked.url}/metrics"), "the refusal shows", 30
    )
    assert ask(client, "I love it.").choices[0].message.content in CHOICES
    tasked.deploy(["v1", "v2"], user_config=config(sentiment=SENTIMENT, short=SHORT))
    wait_for(
        lambda: "linnet_gateway_tasks_stale 0.0" in read(f"{tasked.url}/metrics"), "the repair shows", 30
    )
    assert pids() == processes
