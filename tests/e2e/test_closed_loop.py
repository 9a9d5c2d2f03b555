"""From a training run to a verdict by one command: promoted with one policy, taken back with another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from tests.e2e.load import Load
from tests.e2e.rolling import FEW_ERRORS, STEPS, version_app
from tests.e2e.test_rollouts import held_out, quality
from tests.support.endpoint import MODEL, Endpoint, publish, wait_for
from tests.support.tiny_model import make_tiny_model
from train_jobs import golden
from train_jobs.spec import DataSpec, PeftSpec, PublishSpec, TrainSpec

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

LOOP = "loop"


@pytest.fixture(scope="module")
def serving(shared_endpoint, shared_settings, tmp_path_factory) -> Iterator[Endpoint]:
    """The model's v1 behind the gateway; no controller yet, which the loop brings along."""
    store = ModelStore.open(shared_settings)
    base = make_tiny_model(tmp_path_factory.mktemp("loop") / "base", seed=31)
    publish(store, base, "v1", golden.compute(base), model=LOOP)
    # Without another version of the tiny model, so that there is room to train beside three of the loop's.
    shared_endpoint.deploy(["v1"], gateway={"models": [MODEL, LOOP]}, more=[version_app(LOOP, "v1")])
    wait_for(lambda: is_serving(shared_endpoint, "v1"), "loop:v1 serving", 240)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def is_serving(endpoint: Endpoint, version: str) -> bool:
    with ModelStore.open(endpoint.settings).database.snapshot() as session:
        rows = replicas.everything(session, LOOP)
        return any((row.version, row.status) == (version, ReplicaStatus.SERVING) for row in rows)


def spec_file(directory: Path, version: str, answers: tuple[str, str] = ("yes", "no")) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {number} even?"},
                {"role": "assistant", "content": answers[number % 2]},
            ]
        }
        for number in range(64)
    ]
    data = directory / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    spec = TrainSpec(
        run=f"loop-{version}",
        model=f"{LOOP}:v1",
        data=DataSpec(train=str(data), validation=str(data)),
        max_steps=20,
        learning_rate=2e-2,
        num_workers=1,
        eval_steps=10,
        save_steps=10,
        load_best_model_at_end=True,
        peft=PeftSpec(r=4),
        publish=PublishSpec(version=version),
    )
    file = directory / "spec.yaml"
    file.write_text(spec.to_yaml())
    return file


def train(endpoint: Endpoint, spec: Path, gates: list[dict]) -> tuple[int, dict]:
    policy = spec.with_name("canary.yaml")
    policy.write_text(yaml.safe_dump({"steps": STEPS, "gates": gates}))
    done = endpoint.command(
        *("linnet", "train", "run", str(spec), "--then-rollout", str(policy)),
        *("--wait", "6m", "--yes", "--json"),
        timeout_s=900,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def shown(endpoint: Endpoint, version: str) -> dict:
    return endpoint.linnet("models", "show", f"{LOOP}:{version}")["data"]


def test_a_run_becomes_the_stable_version_and_done_again_nothing_happens(serving, tmp_path, told):
    spec = spec_file(tmp_path, "v2")
    with Load(url=serving.url, model=LOOP, tokens=8, callers=4) as load:
        code, out = train(serving, spec, [FEW_ERRORS])
    assert code == 0, out
    assert load.failures == []
    detail = out["detail"]["then_rollout"]
    assert (detail["deployed"], detail["begun"], detail["ended"]["phase"]) == (True, True, "promoted")
    known = shown(serving, "v2")
    assert known["aliases"] == ["stable"]
    assert (known["lineage"]["run"], "eval_loss" in known["lineage"]["metrics"]) == ("loop-v2", True)
    assert [(one["id"], one["phase"]) for one in known["rollouts"]] == [(detail["rollout"], "promoted")]
    again_code, again = train(serving, spec, [FEW_ERRORS])
    assert (again_code, again["applied"]) == (0, False)
    assert shown(serving, "v2")["rollouts"] == known["rollouts"]
    told.append(f"closed loop: trained, deployed and promoted, {len(load.answered)} answers, 0 failed")


def test_a_run_that_answers_otherwise_is_taken_back_with_exit_4(serving, tmp_path, told):
    stable = next(label for label in ("v2", "v1") if "stable" in shown(serving, label)["aliases"])
    right = held_out(serving, tmp_path, LOOP, stable)
    with Load(url=serving.url, model=LOOP, tokens=8, callers=4) as load:
        spec = spec_file(tmp_path, "v3", answers=("moon moon moon", "tree tree tree"))
        code, out = train(serving, spec, [FEW_ERRORS, quality(right)])
    assert (code, out["error"]["code"]) == (4, "rollout.taken_back"), out
    assert load.failures == []
    [journey] = shown(serving, "v3")["rollouts"]
    assert (journey["phase"], journey["reason"]) == ("rolled_back", "gate_failed")
    assert journey["gate"].startswith("quality")
    assert "stable" in shown(serving, stable)["aliases"]
    told.append(f"closed loop: a worse run was taken back: {journey['why']}")
