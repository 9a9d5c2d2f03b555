"""Prefix-aware routing through a whole gateway: conversations stay, and failures do not end them."""

from __future__ import annotations

import json
import time
from functools import partial

import httpx
import pytest

from serve_apps.gateway.balancer import Balancer
from serve_apps.gateway.directory import Replica
from serve_apps.gateway.prefix_affinity import VersionPrefixes
from serve_apps.gateway.prompt_text import prompt_text
from serve_apps.gateway.routing import RoutingConfig, RoutingPolicy
from tests.serve_apps.gateway.test_upstream import drop

AWARE = {"policy": "prefix_aware"}
TURNS = 6


def converse(stack, name: str) -> list[bytes]:
    """A conversation of growing bodies, as they were sent."""
    messages, sent = [{"role": "system", "content": "Be kind."}], []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"{name} asks for the {turn}th time: " + name * 40})
        sent.append(json.dumps({"model": "m", "messages": messages}).encode())
        answer = httpx.post(f"{stack.url}/v1/chat/completions", content=sent[-1])
        assert answer.status_code == 200
        messages.append({"role": "assistant", "content": "Hello from v1"})
    return sent


def bodies(engine) -> list[bytes]:
    return [body for _, body in engine.requests]


def test_each_conversation_stays_with_one_replica_and_its_bytes_as_they_are(launch):
    stack = launch(routing=AWARE)
    engines = [stack.engine("v1"), stack.engine("v1")]
    stack.policy("v1")
    for name in ("ada", "bob", "eve", "zoe"):
        sent = converse(stack, name)
        got = [[body for body in bodies(engine) if body in sent] for engine in engines]
        assert sorted(got, key=len) == [[], sent]
    assert all(engine.requests for engine in engines)


def test_without_it_they_do_not(launch):
    stack = launch()
    engines = [stack.engine("v1"), stack.engine("v1")]
    stack.policy("v1")
    for name in "abcdef":
        converse(stack, name)
    shares = [[sum(name * 40 in b.decode() for b in bodies(e)) for e in engines] for name in "abcdef"]
    assert any(all(share) for share in shares)


def test_a_conversation_whose_replica_drops_it_goes_on_with_another(launch):
    stack = launch(routing=AWARE)
    engines = [stack.engine("v1"), stack.engine("v1")]
    stack.policy("v1")
    sent = converse(stack, "ada")
    [home] = [engine for engine in engines if engine.requests]
    [other] = [engine for engine in engines if engine is not home]
    home.behaviour = drop
    again = converse(stack, "ada")
    assert again == sent
    assert set(bodies(other)) == set(sent)


@pytest.mark.parametrize("body", [b'{"prompt": [1, 2]}', b'{"prompt": ""}', b"{}"])
def test_a_request_without_a_text_goes_to_the_least_busy(launch, body):
    stack = launch(routing=AWARE)
    engines = [stack.engine("v1"), stack.engine("v1")]
    stack.policy("v1")
    for _ in range(30):
        assert httpx.post(f"{stack.url}/v1/completions", content=body).status_code == 200
    assert all(engine.requests for engine in engines)


def test_choosing_by_a_prompt_of_4_kb_costs_less_than_100_microseconds():
    """The best of several rounds, since a busy machine says nothing about the code."""
    prefixes, balancer = VersionPrefixes(RoutingConfig(policy=RoutingPolicy.PREFIX_AWARE)), Balancer()
    replicas = tuple(Replica(id=f"r{n}", base_url=f"http://{n}") for n in range(4))
    prefixes.follow(replicas)
    system = "You answer questions about birds. " * 30
    questions = [f"{number}: " + "Why do they sing? " * 170 for number in range(100)]
    encoded = [
        json.dumps({"messages": [{"content": system}, {"content": question}]}).encode()
        for question in questions
    ]
    best = float("inf")
    for _ in range(20):
        started = time.perf_counter()
        for body in encoded:
            text = prompt_text(body)
            picked = balancer.pick(replicas, {}, prefer=partial(prefixes.narrow, text))
            prefixes.sent(text, picked.id)
        best = min(best, (time.perf_counter() - started) / len(encoded))
    assert best * 1e6 < 100
