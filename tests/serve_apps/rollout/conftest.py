import pytest

from cluster.registry import ModelStore
from serve_apps.rollout.service import Rollouts
from tests.serve_apps.rollout import world


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
