"""Rollouts that judge by themselves, on real engines: a good version, and four bad ones."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from tests.e2e.load import Load
from tests.e2e.rolling import ERRORS, FEW_ERRORS, ITL, REPETITION, Rolling, controller, version_app
from tests.support import faulty
from tests.support.endpoint import MODEL, Endpoint, publish, wait_for
from tests.support.tiny_adapter import make_tiny_adapter
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden

pytestmark = [pytest.mark.cluster, pytest.mark.engine]

LORA, FAULTY = "lora5", "v7"
QUESTIONS = [f"Tell me of number {number}." for number in range(24)]


@dataclass
class Bad:
    """The engine whose fault a file switches on."""

    file: Path

    def begin(self, what: str) -> datetime:
        self.file.write_text(what)
        return datetime.now(UTC).replace(tzinfo=None)

    def end(self) -> None:
        self.file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def bad(tmp_path_factory) -> Bad:
    return Bad(tmp_path_factory.mktemp("fault") / "fault")


@pytest.fixture(scope="module")
def serving(shared_endpoint, shared_settings, tmp_path_factory, bad) -> Iterator[Endpoint]:
    scratch = tmp_path_factory.mktemp("rollouts")
    store = ModelStore.open(shared_settings)
    base = make_tiny_model(scratch / "lora", seed=21)
    publish(store, base, "v1", golden.compute(base), model=LORA)
    adapter = make_tiny_adapter(base, scratch / "adapter", seed=22)
    store.publish(
        adapter,
        VersionRef(model=LORA, version="v2"),
        kind=VersionKind.ADAPTER,
        source_label="tests",
        golden=golden.compute(base, adapter_dir=adapter),
        parent=f"{LORA}:v1",
    )
    publish_tiny(store, scratch, FAULTY)
    shared_endpoint.deploy(
        ["v1", "v2"],
        gateway={"models": [MODEL, LORA]},
        more=[
            faulty_app(bad),
            version_app(
                LORA, "v1", engine_kwargs={"enable_lora": True}, user_config={"adapters": [f"{LORA}:v2"]}
            ),
            controller(url=shared_endpoint.url),
        ],
    )
    shared_endpoint.wait_until_serving(["v1", "v2", FAULTY])
    wait_for(lambda: is_answering(shared_endpoint, LORA, "v2"), "the adapter serving", 240)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def publish_tiny(store: ModelStore, scratch: Path, label: str) -> None:
    source = make_tiny_model(scratch / label, seed=7)
    publish(store, source, label, golden.compute(source))


def faulty_app(bad: Bad) -> dict[str, Any]:
    environment = {
        faulty.FILE_VARIABLE: str(bad.file),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "tests.support.faulty.middlewares",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return version_app(
        MODEL,
        FAULTY,
        engine_kwargs={"logits_processors": ["tests.support.faulty:FaultyLogits"]},
        runtime_env={"env_vars": environment},
    )


def is_answering(endpoint: Endpoint, model: str, version: str) -> bool:
    try:
        chat(endpoint, model, version, "Hello?")
    except OSError:
        return False
    return True


def chat(endpoint: Endpoint, model: str, version: str, question: str) -> str:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 12,
        "temperature": 0,
    }
    request = urllib.request.Request(
        f"{endpoint.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "x-linnet-version": version},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["choices"][0]["message"]["content"]


def held_out(endpoint: Endpoint, directory: Path, model: str, version: str) -> Path:
    """Questions whose right answers are what `version` says."""
    file = directory / f"{model}-{version}.jsonl"
    rows = [{"prompt": q, "answer": chat(endpoint, model, version, q)} for q in QUESTIONS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def quality(file: Path) -> dict:
    return {
        "metric": "quality",
        "data": str(file),
        "scorer": "exact",
        "max_drop": "5 points",
        "max_tokens": 12,
        "min_samples": 10,
    }


@pytest.fixture
def rolling(serving, tmp_path) -> Rolling:
    return Rolling(serving, tmp_path, MODEL)


def test_a_good_version_goes_all_the_way_by_itself(serving, rolling, tmp_path, told):
    better = held_out(serving, tmp_path, MODEL, "v2")
    with Load(url=serving.url, model=MODEL, tokens=16, callers=6) as load:
        rollout = rolling.start("v2", FEW_ERRORS, ITL, REPETITION, quality(better))
        row = rolling.wait_for_end(rollout)
    took = (row.updated_at - row.started_at).total_seconds()
    assert (row.phase, row.reason) == ("promoted", "promoted"), rolling.last_look(rollout)
    assert load.failures == []
    seen = rolling.require_explained(rollout)
    told.append(
        f"good version: 0 to 100% in {took:.0f} s, {seen} looks, {len(load.answered)} answers, 0 failed"
    )
    serving.linnet("rollout", "rollback", MODEL, "--yes")


def test_a_wrong_adapter_is_taken_back_for_its_answers(serving, tmp_path, told):
    rolling = Rolling(serving, tmp_path, LORA)
    right = held_out(serving, tmp_path, LORA, "v1")
    with Load(url=serving.url, model=LORA, tokens=8, callers=2) as load:
        rollout = rolling.start("v2", FEW_ERRORS, quality(right))
        row = rolling.wait_for_end(rollout)
    assert (row.phase, row.reason) == ("rolled_back", "gate_failed"), rolling.last_look(rollout)
    assert rolling.last_look(rollout)["conclusion"]["gate"].startswith("quality")
    assert load.failures == []
    took = (row.updated_at - row.started_at).total_seconds()
    told.append(
        f"wrong adapter: {took:.1f} s from the start; {rolling.last_look(rollout)['conclusion']['why']}"
    )


@pytest.mark.parametrize(
    ("what", "gate"),
    [
        ("slow", ITL | {"max_ratio": 1.5}),
        ("erring", ERRORS),
        ("babbling", REPETITION),
    ],
)
def test_a_bad_version_is_taken_back_by_itself(serving, rolling, bad, told, what, gate):
    # It is held, so that it is still there when the fault begins.
    steps = [{"weight": 30, "hold": "1h"}, {"weight": 100}]
    # A loop is told from 120 characters on, and a token of the tiny model is one.
    with Load(url=serving.url, model=MODEL, tokens=140 if what == "babbling" else 24, callers=6) as load:
        rollout = rolling.start(
            FAULTY, *{g["metric"]: g for g in (FEW_ERRORS, ITL, REPETITION, gate)}.values(), steps=steps
        )
        rolling.wait_for_step(rollout, 0)
        wait_for(lambda: load.answered.count(FAULTY) > 60, "answers of the candidate", 120)
        try:
            begun, before = bad.begin(what), load.answered.count(FAULTY)
            row = rolling.wait_for_end(rollout)
            harmed = load.answered.count(FAULTY) - before
        finally:
            bad.end()
    [*_, last] = rolling.decisions(rollout)
    assert (row.phase, row.reason) == ("rolled_back", "gate_failed"), rolling.last_look(rollout)
    conclusion = rolling.last_look(rollout)["conclusion"]
    assert conclusion["gate"].startswith(gate["metric"])
    own = [failure for failure in load.failures if "500" not in failure]
    assert own == []
    assert what == "erring" or load.failures == []
    rolling.require_explained(rollout)
    told.append(
        f"{what}: {(last.at - begun).total_seconds():.1f} s from the fault to the decision, "
        f"{rolling.applied_s(last):.2f} s from there to 0%, {harmed} answers of it; {conclusion['why']}"
    )
