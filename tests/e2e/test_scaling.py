"""A version that scales by its engine's load, up and down again, while its callers notice nothing."""

from __future__ import annotations

import pytest

from tests.e2e.load import Load
from tests.support.endpoint import MODEL, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.engine, pytest.mark.slow]

BY_LOAD = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 2,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 2,
    "upscale_delay_s": 1,
    "downscale_delay_s": 3,
    "policy": {"policy_function": "serve_apps.scaling:LoadPolicy"},
}


@pytest.fixture
def scaled(shared_endpoint):
    shared_endpoint.deploy(["v1", "v2"], replicas={"v1": BY_LOAD})
    shared_endpoint.wait_until_serving(["v1", "v2"])
    yield shared_endpoint
    shared_endpoint.deploy(["v1", "v2"])


def serving(endpoint):
    return {replica for version, replica in endpoint.serving_replicas() if version == "v1"}


def test_replicas_come_with_the_load_and_go_with_it_and_no_request_fails(scaled):
    few = Load(url=scaled.url, model=f"{MODEL}:v1", callers=1)
    many = Load(url=scaled.url, model=f"{MODEL}:v1", callers=8, tokens=120)
    with few:
        with many:
            wait_for(lambda: len(serving(scaled)) >= 2, "a second replica", 180)
        wait_for(lambda: len(serving(scaled)) == 1, "one replica again", 120)
    assert few.failures == many.failures == []
    assert few.answered
    assert many.answered
