"""A base and adapters of it on the same engines: who answers, what comes and goes, what is refused."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from cluster.manifest import Golden, VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.state import replicas
from tests.e2e import processes
from tests.e2e.comparison import PROMPTS, Comparison, ask
from tests.support.endpoint import Endpoint, wait_for
from tests.support.tiny_adapter import make_tiny_adapter
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

LORA = "lora"
QUESTIONS = ["Who are you, and where do you come from?", "Count from one to twelve, please."]


@dataclass
class World:
    """The endpoint, and what transformers and PEFT answer as each version."""

    endpoint: Endpoint
    answers: dict[str, Golden]

    def deploy(self, *adapters: str) -> None:
        """The base `lora:v1` in two replicas, with these adapters."""
        application = {
            "name": f"{LORA}-v1",
            "import_path": "serve_apps.app:version",
            "route_prefix": f"/_versions/{LORA}/v1",
            "args": {
                "version": f"{LORA}:v1",
                "engine_kwargs": {
                    "max_model_len": 256,
                    "max_num_seqs": 16,
                    "enforce_eager": True,
                    "enable_lora": True,
                    "max_loras": 2,
                },
            },
            "deployments": [
                {
                    "name": f"{LORA}-v1",
                    "num_replicas": 2,
                    "user_config": {"adapters": [f"{LORA}:{label}" for label in adapters]},
                }
            ],
        }
        self.endpoint.deploy(["v1", "v2"], gateway={"models": ["tiny", LORA]}, more=[application])

    def standing(self) -> dict[str, list[str]]:
        """Version to the status of each live or refused replica of it."""
        with ModelStore.open(self.endpoint.settings).database.snapshot() as session:
            rows = [row for row in replicas.everything(session, LORA) if not replicas.is_stale(row)]
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row.version, []).append(row.status)
        return found

    def wait_until(self, **expected: int) -> None:
        """Until each version has so many serving replicas, and others none."""

        def there() -> bool:
            counts = {version: found.count("serving") for version, found in self.standing().items()}
            return {version: count for version, count in counts.items() if count} == expected

        try:
            wait_for(there, f"{expected}", 240)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.standing()}") from None

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[str, Any]:
        """The version that answered, and the answer."""
        request = urllib.request.Request(
            f"{self.endpoint.url}{path}",
            json.dumps({"model": LORA, "temperature": 0} | body).encode(),
            {"content-type": "application/json"} | headers,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["x-linnet-version"], json.loads(answer.read())


@pytest.fixture(scope="module")
def world(shared_endpoint, shared_settings, tmp_path_factory) -> Iterator[World]:
    scratch = tmp_path_factory.mktemp("lora")
    store, base = ModelStore.open(shared_settings), make_tiny_model(scratch / "v1", seed=11)
    answers = {"v1": golden.compute(base, prompts=QUESTIONS)}
    sources = {"v1": base}
    for label, seed, modules in (("v2", 2, ["q_proj", "v_proj"]), ("v3", 3, "all-linear")):
        sources[label] = make_tiny_adapter(base, scratch / label, seed=seed, modules=modules)
        answers[label] = golden.compute(base, adapter_dir=sources[label], prompts=QUESTIONS)
    # v4 has the weights of v2 and claims to answer as v3.
    sources["v4"], answers["v4"] = sources["v2"], answers["v3"]
    for label, source in sources.items():
        store.publish(
            source,
            VersionRef(model=LORA, version=label),
            kind=VersionKind.BASE if label == "v1" else VersionKind.ADAPTER,
            source_label="tests",
            parent=None if label == "v1" else f"{LORA}:v1",
            golden=answers[label],
        )
    world = World(shared_endpoint, answers)
    world.deploy("v2", "v4", "v3")
    world.wait_until(v1=2, v2=2, v3=2)
    wait_for(lambda: f"{LORA}:v3" in listed(world), "the gateway knows of the adapters", 30)
    yield world
    shared_endpoint.deploy(["v1", "v2"])
    shared_endpoint.wait_until_serving(["v1", "v2"])


def listed(world: World) -> list[str]:
    with urllib.request.urlopen(f"{world.endpoint.url}/v1/models", timeout=30) as answer:
        return [card["id"] for card in json.loads(answer.read())["data"]]


def pids() -> set[int]:
    engines = processes.titled("VLLM::EngineCore")
    return {p.pid for p in [*engines, *processes.titled(f"ServeReplica:{LORA}-v1"), *processes.gateways()]}


def test_each_version_answers_as_transformers_and_peft_do_though_they_share_batches(world):
    def check(label: str) -> None:
        for number, expected in enumerate(world.answers[label].answers):
            body = {
                "prompt": expected.prompt_token_ids,
                "max_tokens": expected.max_tokens,
                "return_token_ids": True,
            }
            named = {"model": f"{LORA}:{label}"} if number % 2 else {}
            pinned = {} if number % 2 else {"x-linnet-version": label}
            version, answer = world.post("/v1/completions", body | named, **pinned)
            assert (version, answer["model"]) == (label, LORA)
            assert answer["choices"][0]["token_ids"] == expected.answer_token_ids

    with ThreadPoolExecutor(12) as callers:
        list(callers.map(check, ("v1", "v2", "v3") * 4))
    assert len({world.answers[label].answers[0].answer for label in ("v1", "v2", "v3")}) == 3


@pytest.mark.parametrize("label", ["v1", "v2", "v3"])
def test_chat_responses_and_tokens_are_those_of_the_version(world, label):
    expected = world.answers[label].answers[-1]
    turns = [{"role": "user", "content": expected.prompt}]
    pin = {"x-linnet-version": label}
    body = {"messages": turns, "max_tokens": expected.max_tokens, "return_token_ids": True}
    _, chat = world.post("/v1/chat/completions", body, **pin)
    assert chat["choices"][0]["token_ids"] == expected.answer_token_ids
    body = {"input": expected.prompt, "max_output_tokens": expected.max_tokens}
    _, response = world.post("/v1/responses", body, **pin)
    assert response["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    _, tokens = world.post("/tokenize", {"messages": turns, "model": f"{LORA}:{label}"})
    assert tokens["tokens"] == expected.prompt_token_ids


def test_an_adapter_that_does_not_prove_itself_is_refused_and_says_why(world):
    rows = world.endpoint.linnet("serve", "status", LORA)["data"]
    refused = [row for row in rows if row["version"] == "v4"]
    assert [row["status"] for row in refused] == ["refused", "refused"]
    assert all("the reference" in row["detail"] for row in refused)
    assert {row["status"] for row in rows if row["version"] != "v4"} == {"serving"}
    assert f"{LORA}:v4" not in listed(world)
    held = world.endpoint.command("linnet", "models", "rm", f"{LORA}:v2", "--yes", "--json")
    assert "models.held" in held.stdout


def test_a_split_between_a_base_and_its_adapter_is_sticky(world):
    world.endpoint.linnet("rollout", "start", f"{LORA}:v2", "--weight", "50", "--yes")
    expected = {label: world.answers[label].answers[0] for label in ("v1", "v2")}
    body = {"prompt": expected["v1"].prompt_token_ids, "max_tokens": 20, "return_token_ids": True}

    def of_key(key: str) -> str:
        version, answer = world.post("/v1/completions", body, **{"x-linnet-key": key})
        assert answer["choices"][0]["token_ids"] == expected[version].answer_token_ids
        return version

    keys = [f"key-{number}" for number in range(24)]
    wait_for(lambda: {of_key(key) for key in keys} == {"v1", "v2"}, "the split is in force", 30)
    first = {key: of_key(key) for key in keys}
    assert {key: of_key(key) for key in keys} == first
    assert 4 <= list(first.values()).count("v2") <= 20
    world.endpoint.linnet("rollout", "rollback", LORA, "--yes")
    with urllib.request.urlopen(f"{world.endpoint.url}/metrics", timeout=10) as answer:
        assert f'linnet_gateway_replicas{{model="{LORA}",version="v2"}} 2.0' in answer.read().decode()
    logged = world.endpoint.linnet("serve", "logs", LORA, "--version", "v2")["data"]
    assert len(logged) >= 4


def loads(world: World, *labels: str) -> list[Comparison]:
    found = []
    for label in labels:
        model = f"{LORA}:{label}"
        expected = {prompt: ask(world.endpoint, prompt, stream=False, model=model) for prompt in PROMPTS}
        found.append(Comparison(endpoint=world.endpoint, expected=expected, callers=1, model=model))
    assert len({load.expected[PROMPTS[0]] for load in found}) == len(labels)
    return found


def test_adapters_come_and_go_under_load_and_restart_nothing(world):
    before = pids()
    base, adapter = loads(world, "v1", "v2")
    with base, adapter:
        for adapters, serving in ((("v2",), {"v1": 2, "v2": 2}), (("v2", "v3"), {"v1": 2, "v2": 2, "v3": 2})):
            goal = base.equal + adapter.equal + 4
            world.deploy(*adapters)
            world.wait_until(**serving)
            has_v3 = "v3" in adapters
            wait_for(lambda has_v3=has_v3: (f"{LORA}:v3" in listed(world)) is has_v3, f"{adapters}", 30)
            wait_for(lambda goal=goal: base.equal + adapter.equal > goal, "callers are answered", 60)
            if not has_v3:
                with pytest.raises(urllib.error.HTTPError) as caught:
                    world.post("/v1/completions", {"prompt": "a"}, **{"x-linnet-version": "v3"})
                assert caught.value.code == 404
    assert (base.wrong, base.cut, adapter.wrong, adapter.cut) == ([], [], [], [])
    assert pids() == before
    assert world.standing().keys() == {"v1", "v2", "v3"}, "a refusal goes with what was refused"


def test_a_killed_engine_costs_callers_of_adapters_no_answer(world):
    base, adapter = loads(world, "v1", "v2")
    with base, adapter:
        wait_for(lambda: base.equal >= 2 and adapter.equal >= 2, "the load runs")
        victim, *_ = processes.titled(f"ServeReplica:{LORA}-v1")
        processes.kill_engine(victim)
        wait_for(lambda: not psutil.pid_exists(victim.pid), "the replica ends", 40)
        goal = adapter.equal + 8
        wait_for(lambda: adapter.equal >= goal, "callers are answered by the other replica", 60)
        wait_for(lambda: world.standing()["v2"].count("serving") >= 3, "the new one has the adapters", 240)
    assert (base.wrong, base.cut, adapter.wrong, adapter.cut) == ([], [], [], [])
    receipts = wait_for(
        lambda: world.endpoint.linnet("serve", "receipts", LORA)["data"], "a receipt of the loss", 90
    )
    assert [(row["version"], row["failed"]) for row in receipts] == [("v1", 0)]
