"""The endpoint against a bare vLLM server over the same weights: the same requests give the same bodies."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.refs import VersionRef
from cluster.registry import ModelStore
from tests.conftest import free_port
from tests.support.endpoint import MODEL, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]
TALK = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "Is this good?"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "Really? Ünïcödé: 你好 🙂"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "verdict",
        "schema": {
            "type": "object",
            "properties": {"label": {"enum": ["positive", "negative"]}},
            "required": ["label"],
            "additionalProperties": False,
        },
    },
}

CHATS: list[dict[str, Any]] = [
    {"messages": HELLO},
    {"messages": TALK},
    {"messages": HELLO, "max_tokens": 1},
    {"messages": HELLO, "max_completion_tokens": 5},
    {"messages": HELLO, "logprobs": True},
    {"messages": HELLO, "logprobs": True, "top_logprobs": 4},
    {"messages": HELLO, "n": 3, "temperature": 0.9, "seed": 3},
    {"messages": HELLO, "temperature": 0.9, "seed": 7},
    {"messages": HELLO, "temperature": 0.7, "top_p": 0.9, "seed": 11},
    {"messages": HELLO, "temperature": 0.7, "top_k": 5, "min_p": 0.05, "seed": 11},
    {"messages": HELLO, "presence_penalty": 0.8, "frequency_penalty": 0.5},
    {"messages": HELLO, "repetition_penalty": 1.3},
    {"messages": HELLO, "stop": ["a", "e"]},
    {"messages": HELLO, "stop": "t", "include_stop_str_in_output": True},
    {"messages": HELLO, "stop_token_ids": [70, 71, 72]},
    {"messages": HELLO, "min_tokens": 6, "ignore_eos": True},
    {"messages": HELLO, "logit_bias": {"40": 5, "41": -100}},
    {"messages": HELLO, "response_format": SCHEMA, "max_tokens": 40},
    {"messages": HELLO, "response_format": {"type": "json_object"}, "max_tokens": 30},
    {"messages": HELLO, "structured_outputs": {"choice": ["positive", "negative"]}, "max_tokens": 20},
    {"messages": HELLO, "structured_outputs": {"regex": "[0-9]{3}"}, "max_tokens": 10},
    {"messages": HELLO, "tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    {
        "messages": HELLO,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 60,
    },
    {"messages": HELLO, "tools": [TOOL], "tool_choice": "none"},
    {"messages": HELLO, "user": "ada", "metadata": {"a": "b"}},
    {"messages": HELLO, "add_generation_prompt": False},
    {"messages": [*HELLO, {"role": "assistant", "content": "The"}], "continue_final_message": True}
    | {"add_generation_prompt": False},
    {"messages": HELLO, "return_token_ids": True},
]
TEXTS: list[dict[str, Any]] = [
    {"prompt": "Once upon a time"},
    {"prompt": ["one", "two"]},
    {"prompt": [70, 71, 72, 73]},
    {"prompt": "Once", "echo": True},
    {"prompt": "Once", "logprobs": 2},
    {"prompt": "Once", "echo": True, "logprobs": 1},
    {"prompt": "Once", "n": 2, "temperature": 0.8, "seed": 5},
    {"prompt": "Once", "stop": ["o"], "max_tokens": 30},
    {"prompt": "Once", "suffix": None, "max_tokens": 3},
    {"prompt": "Once", "prompt_logprobs": 1},
    {"prompt": "Once", "bad_words": ["a"], "max_tokens": 6},
    {"prompt": "", "max_tokens": 3},
]
REFUSED: list[tuple[str, dict[str, Any]]] = [
    (CHAT, {"messages": []}),
    (CHAT, {"messages": HELLO, "temperature": -1}),
    (CHAT, {"messages": HELLO, "max_tokens": -1}),
    (CHAT, {"messages": HELLO, "n": 0}),
    (CHAT, {"messages": HELLO, "top_p": 7}),
    (CHAT, {"messages": HELLO, "max_tokens": 100_000}),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 5_000}]}),
    (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 1_000}),
    (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}),
    (CHAT, {"messages": HELLO, "stream": "maybe"}),
    (CHAT, {"messages": "hello"}),
    (
        CHAT,
        {"messages": HELLO, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no"}}},
    ),
    (CHAT, {}),
    (TEXT, {"prompt": "Once", "max_tokens": 0, "min_tokens": 5}),
    (TEXT, {"prompt": None}),
    (TEXT, {"prompt": "Once", "logprobs": -3}),
    (TEXT, {"prompt": "Once", "stream": True, "max_tokens": 100_000}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"prompt": "Once upon"}),
    ("/tokenize", {"messages": TALK}),
    ("/detokenize", {"tokens": [70, 71, 72]}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 8, "temperature": 0}),
]


@dataclass(frozen=True)
class Case:
    """One request to both."""

    path: str
    body: dict[str, Any]

    @property
    def name(self) -> str:
        shown = {
            key: value for key, value in self.body.items() if key not in ("model", "messages", "max_tokens")
        }
        return f"{self.path} {json.dumps(shown)[:120]}"


def cases() -> list[Case]:
    defaults = {"model": MODEL, "max_tokens": 12, "temperature": 0}
    asked = [*((CHAT, body) for body in CHATS), *((TEXT, body) for body in TEXTS)]
    whole = [Case(path, defaults | body) for path, body in asked]
    usage = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    streams = [Case(case.path, case.body | usage) for case in whole]
    refused = [Case(path, {"model": MODEL} | body) for path, body in REFUSED]
    return [*whole, *streams, *refused, *(Case(path, {"model": MODEL} | body) for path, body in OTHERS)]


@pytest.fixture(scope="module")
def bare(shared_endpoint, tmp_path_factory) -> Iterator[str]:
    """vLLM's own server over the files of v1, as v1 is served."""
    store = ModelStore.open(shared_endpoint.settings)
    directory = store.local_dir(VersionRef(model=MODEL, version="v1"))
    port = free_port()
    log = tmp_path_factory.mktemp("bare") / "vllm.log"
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(directory), "--port", str(port)]
    engine = ["--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "16", "--enforce-eager"]
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, *words, "--host", "127.0.0.1", "--served-model-name", MODEL, *engine],
            env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.poll() is not None or answers(url), "vLLM's own server", 180)
        assert server.poll() is None, log.read_text()[-3000:]
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def post(url: str, case: Case) -> tuple[int, bytes]:
    headers = {"content-type": "application/json", "x-request-id": "same", "x-linnet-version": "v1"}
    request = urllib.request.Request(url + case.path, json.dumps(case.body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


_OWN = [
    (re.compile(rb'"(created|created_at)":\s*\d+'), rb'"\1":0'),
    (re.compile(rb"chatcmpl-tool-[0-9a-f]+"), b"chatcmpl-tool"),
    (re.compile(rb'"id":\s*"(resp|msg|rs|call)_[0-9a-f]+"'), rb'"id":"\1"'),
]


def content(raw: bytes) -> Any:
    """A body without its times and ids: JSON, or what a stream's events say of each choice."""
    for pattern, plain in _OWN:
        raw = pattern.sub(plain, raw)
    return told(raw.split(b"\n\n")) if raw.startswith(b"data: ") else json.loads(raw)


def told(events: list[bytes]) -> dict[str, Any]:
    """A stream, each choice's deltas put together.

    How many tokens vLLM puts into one event depends on how fast it is read, and differs between
    two runs of the same server, and `text_offset` with it, which it counts from event to event;
    what else the events of a choice say, in their order, does not.
    """
    *chunks, done, end = events
    assert (done, end) == (b"data: [DONE]", b"")
    said: dict[str, Any] = {"choices": {}, "shapes": set()}
    for chunk in (json.loads(raw.removeprefix(b"data: ")) for raw in chunks):
        for choice in chunk.pop("choices", []):
            index = choice.pop("index")
            (choice.get("logprobs") or {}).pop("text_offset", None)
            said["choices"][index] = fold(said["choices"].get(index), choice)
        said["usage"] = chunk.pop("usage", None)
        said["shapes"].add(
            json.dumps({key: value for key, value in chunk.items() if key != "prompt_token_ids"})
        )
    return said


def fold(before: Any, after: Any) -> Any:
    """One delta after another: texts and lists grow, objects grow by their keys, tool calls by index."""
    if before is None or after is None:
        return after if before is None else before
    if isinstance(before, dict):
        return {
            key: fold(before.get(key), after.get(key)) for key in [*before, *(after.keys() - before.keys())]
        }
    if isinstance(before, list) and after and isinstance(after[0], dict) and "index" in after[0]:
        calls = {call["index"]: call for call in before}
        for call in after:
            index = call["index"]
            rest = {key: value for key, value in call.items() if key != "index"}
            calls[index] = fold(calls[index], rest) if index in calls else call
        return [calls[index] for index in sorted(calls)]
    return before + after if isinstance(before, list | str) else after


def test_the_same_requests_give_the_same_bodies(shared_endpoint, bare):
    shared_endpoint.wait_until_serving(["v1"])
    asked = cases()
    assert len(asked) >= 60
    different = []
    for case in asked:
        theirs, ours = post(bare, case), post(shared_endpoint.url, case)
        if (theirs[0], content(theirs[1])) != (ours[0], content(ours[1])):
            different.append(
                f"{case.name}\n  vLLM   {theirs[0]} {theirs[1][:600]!r}\n  Linnet {ours[0]} {ours[1][:600]!r}"
            )
    assert not different, f"{len(different)} of {len(asked)}:\n" + "\n".join(different)
