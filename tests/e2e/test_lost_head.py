"""A rollout on one machine whose whole head is lost: it comes back by itself, with all that it served."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e import processes
from tests.e2e.comparison import Split
from tests.e2e.rolling import Rolling, controller
from tests.e2e.test_rollout_kills import ERRORS, UNDISTURBED
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def serving(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], more=[controller(url=shared_endpoint.url)])
    shared_endpoint.wait_until_serving(["v1", "v2"])
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def seconds_until_others_serve(endpoint: Endpoint, before: set[tuple[str, str]]) -> float:
    """How long until both versions have a replica that is not of `before`."""
    began = time.monotonic()

    def both() -> bool:
        return {version for version, _ in set(endpoint.serving_replicas()) - before} == {"v1", "v2"}

    wait_for(both, "new replicas of both versions", 600)
    return time.monotonic() - began


def test_with_its_raylet_all_of_the_head_starts_over_and_the_rollout_goes_on(serving, tmp_path, told):
    rolling = Rolling(serving, tmp_path, MODEL)
    with Split(endpoint=serving, callers=2):
        rollout = rolling.start("v2", ERRORS)
        rolling.wait_for_step(rollout, 1)
    before = set(serving.serving_replicas())
    (raylet,) = processes.head(serving, "raylet")
    raylet.kill()
    # Nothing is deployed again: Serve finds in the tables what it served.
    away = seconds_until_others_serve(serving, before)
    with Split(endpoint=serving, callers=2):
        assert rolling.wait_for_end(rollout).phase == "promoted", rolling.last_look(rollout)
    assert [decision.command for decision in rolling.decisions(rollout)] == UNDISTURBED
    rolling.require_explained(rollout)
    serving.linnet("rollout", "rollback", MODEL, "--yes")
    told.append(f"raylet killed: both versions served again after {away:.0f} s; the rollout was promoted")
