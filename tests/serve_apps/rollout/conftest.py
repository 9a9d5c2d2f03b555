import json

import pytest

from cluster.cli.main import main
from cluster.registry import ModelStore
from serve_apps.rollout.service import Rollouts
from tests.serve_apps.rollout import world
from tests.serve_apps.rollout.judged_world import World


@pytest.fixture
def store(tmp_path) -> ModelStore:
    """v1 stable, v2 and v3 beside it, all three serving."""
    store = world.make_store(tmp_path)
    for version in world.VERSIONS:
        world.set_replica(store, version)
    yield store
    store.database.dispose()


@pytest.fixture
def rollouts(store) -> Rollouts:
    return Rollouts(store)


@pytest.fixture
def judged(store) -> World:
    """Simulated gateways beside the store, with a clock."""
    return World(store)


@pytest.fixture
def linnet(tmp_path, monkeypatch, store, capsys):
    """Calls `linnet rollout …` on the store: the exit code, and what was printed."""
    for name in ("LINNET_ROOT", "LINNET_STATE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINNET_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main(["rollout", *map(str, arguments)])
        return code, capsys.readouterr()

    return call


@pytest.fixture
def linnet_json(linnet):
    """The same with `--json`: the exit code and the object."""

    def call(*arguments):
        code, printed = linnet(*arguments, "--json")
        return code, json.loads(printed.out)

    return call
