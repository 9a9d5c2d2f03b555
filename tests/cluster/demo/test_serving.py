from __future__ import annotations

import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from cluster.demo import serving
from cluster.demo.client import MODEL
from cluster.demo.state import Demo
from cluster.errors import GateFailedError, LinnetError, TimedOutError
from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from tests.cluster.demo.world import SplitGateway


@pytest.fixture
def ray_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A `serve` that takes any file and prints a given status; Ray's own would need a cluster."""
    from cluster.demo import commands

    own = commands._program
    program = tmp_path / "serve"
    monkeypatch.setattr(commands, "_program", lambda name: str(program) if name == "serve" else own(name))

    def say(status: str) -> None:
        program.write_text(f"#!{sys.executable}\nprint({status!r})\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    say("")
    return say


def refuse(store: ModelStore, version: str, reason: str) -> None:
    with store.database.transaction() as session:
        replicas.report(
            session,
            replica=f"{version}#2",
            model=MODEL,
            version=version,
            status=ReplicaStatus.REFUSED,
            detail={"reason": reason},
        )


def test_deploying_the_base_gives_it_all_traffic(demo: Demo, gateway: SplitGateway, ray_serve):
    demo.serve_url, demo.stable = gateway.url, "v1"
    serving.deploy_base(demo)
    tree = yaml.safe_load((demo.directory / "endpoint.yaml").read_text())
    names = [application["name"] for application in tree["applications"]]
    assert names == ["gateway", "rollouts", "smollm2-v1"]
    assert demo.policy.stable == "v1"


def test_an_earlier_demos_stable_and_its_unfinished_rollout_give_way(
    demo: Demo, gateway: SplitGateway, ray_serve
):
    store = gateway.store
    store.set_alias(MODEL, "stable", "v2", expected="v1", reason="an earlier demo")
    demo.commands.linnet("rollout", "start", "smollm2:v1", "--weight", "5", "--yes")
    demo.serve_url, demo.stable, demo.rollout_active = gateway.url, "v2", True
    serving.deploy_base(demo)
    assert store.aliases(MODEL)["stable"] == "v1"
    assert "candidate" not in store.aliases(MODEL)


def test_a_refused_version_ends_the_wait_with_the_reason(
    demo: Demo, gateway: SplitGateway, ray_serve, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serving, "_LOOK_PERIOD_S", 0.0)
    demo.serve_url = "http://127.0.0.1:9"
    refuse(gateway.store, "v2", "golden prompt 1 was answered otherwise")
    with pytest.raises(GateFailedError, match="golden prompt 1") as caught:
        serving._wait_until_serving(demo, "v2", time.time() - 60)
    assert caught.value.exit_code == 4


def test_serves_own_failure_ends_the_wait(demo: Demo, gateway, ray_serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "_LOOK_PERIOD_S", 0.0)
    demo.serve_url = "http://127.0.0.1:9"
    failed = {"status": "DEPLOY_FAILED", "message": "Traceback\n  in\ncluster.errors.NotFoundError: no v2\n"}
    ray_serve(yaml.safe_dump({"applications": {"smollm2-v2": failed}}))
    with pytest.raises(LinnetError, match="NotFoundError: no v2") as caught:
        serving._wait_until_serving(demo, "v2", time.time())
    assert caught.value.code == "demo.deploy_failed"


def test_the_wait_has_a_deadline(demo: Demo, ray_serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "_SERVE_DEADLINE_S", 0.0)
    demo.serve_url = "http://127.0.0.1:9"
    with pytest.raises(TimedOutError, match="Connect"):
        serving._wait_until_serving(demo, "v2", time.time())


def test_only_a_new_refusal_of_this_version_counts():
    now = time.time()
    seen = datetime.fromtimestamp(now, UTC).replace(tzinfo=None).isoformat()
    row = {"model": MODEL, "version": "v2", "status": "refused", "seen": seen, "detail": "bad bytes"}
    assert serving.refusal([row], "v2", now - 1) == "bad bytes"
    assert serving.refusal([row], "v2", now + 1) == ""
    assert serving.refusal([row], "v1", now - 1) == ""
    assert serving.refusal([{**row, "status": "serving"}], "v2", now - 1) == ""


@pytest.mark.parametrize(
    "status", ["", "applications: {}", "applications: {smollm2-v2: {status: DEPLOYING}}"]
)
def test_what_is_on_its_way_has_not_failed(status: str):
    assert serving.deploy_failure(status, "smollm2-v2") == ""
