"""A rollout on real engines that is compared with a replica of stable as new as the candidate's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from cluster.state import tallies
from cluster.tally import FRESH
from tests.e2e.load import Load
from tests.e2e.rolling import FEW_ERRORS, Rolling, controller
from tests.e2e.test_scaling import BY_LOAD, serving
from tests.support.endpoint import MODEL, Endpoint, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

E2EL = {"metric": "e2el", "quantile": 0.5, "max_ratio": 3, "min_samples": 20}
MEMORY = {"metric": "memory", "max_ratio": 2}
# Its load alone calls for one replica.
SCALED = BY_LOAD | {"target_ongoing_requests": 100}


@pytest.fixture
def scaled(shared_endpoint) -> Iterator[Endpoint]:
    shared_endpoint.deploy(["v1", "v2"], replicas={"v1": SCALED}, more=[controller(url=shared_endpoint.url)])
    shared_endpoint.wait_until_serving(["v1", "v2"])
    wait_for(lambda: len(serving(shared_endpoint)) == 1, "one replica of stable", 120)
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def counted(rolling: Rolling) -> Counter[str]:
    """Requests by what they are counted for, over all that the gateways have told."""
    with rolling.store.database.snapshot() as session:
        rows = tallies.of_model(session, MODEL)
    found = Counter[str]()
    for row in rows:
        for name, tally in row.tally.versions.items():
            found[name] += tally.counts.get("requests", 0)
    return found


def test_stable_gets_a_replica_for_the_comparison_and_lets_it_go_afterwards(scaled, tmp_path, told):
    rolling = Rolling(scaled, tmp_path, MODEL)
    with Load(url=scaled.url, model=MODEL, tokens=8, callers=6) as load:
        before = counted(rolling)
        rollout = rolling.start(
            "v2",
            FEW_ERRORS,
            E2EL,
            MEMORY,
            steps=[{"weight": 20}, {"weight": 40}, {"weight": 100}],
            baseline="fresh",
            keep_previous="5s",
        )
        wait_for(lambda: len(serving(scaled)) == 2, "a fresh replica of stable", 180)
        rolling.wait_for_step(rollout, 2)
        found = counted(rolling) - before
        row = rolling.wait_for_end(rollout)
        assert (row.phase, row.reason) == ("promoted", "promoted"), rolling.last_look(rollout)
        wait_for(lambda: len(serving(scaled)) == 1, "one replica of stable again", 120)
    assert load.failures == []
    rolling.require_explained(rollout)
    fresh, candidate, others = found[f"{FRESH}v1"], found["v2"], found["v1"]
    # The slices are equally wide; the candidate's was also answered while the fresh replica was awaited.
    assert 20 < fresh <= 1.2 * candidate
    told.append(f"fresh baseline: {fresh} answers of it, {candidate} of v2, {others} of the rest of v1")
    scaled.linnet("rollout", "rollback", MODEL, "--yes")
