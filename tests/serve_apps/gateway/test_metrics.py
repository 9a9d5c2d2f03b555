"""What /metrics says beside the counts of requests: versions, tokens, pace, errors, and where to scrape."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.traffic import TrafficPolicy
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.observation import Observation
from serve_apps.gateway.openai_errors import REASONS
from serve_apps.gateway.standing import Standing, standings
from tests.serve_apps.gateway.servers import TableDirectory, eventually
from tests.serve_apps.gateway.test_observation import HELLO, ask, told, whole

BREAKS = "linnet_gateway_broken_streams_total"


def samples(stack, name: str) -> dict[tuple[str, ...], float]:
    """Every sample of a metric by the values of its labels, in the order of their names."""
    text = httpx.get(f"{stack.url}/metrics").raise_for_status().text
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_versions_show_their_role_their_weight_and_their_replicas(stack):
    stack.engine("v2")
    stack.engine("v3")
    stack.policy("v1", candidate="v2", weight=12.5)
    # By model, role and version.
    assert samples(stack, "linnet_gateway_version_info") == {
        ("m", "stable", "v1"): 1,
        ("m", "candidate", "v2"): 1,
        ("m", "idle", "v3"): 1,
    }
    assert samples(stack, "linnet_gateway_weight") == {("m", "v1"): 87.5, ("m", "v2"): 12.5, ("m", "v3"): 0}
    assert samples(stack, "linnet_gateway_replicas") == {("m", "v1"): 1, ("m", "v2"): 2, ("m", "v3"): 1}


def test_a_scrape_forgets_roles_and_versions_that_are_gone(stack):
    stack.policy("v1", candidate="v2", weight=10)
    assert ("m", "candidate", "v2") in samples(stack, "linnet_gateway_version_info")
    stack.policy("v2")
    del stack.directory.table["m", "v1"]
    assert samples(stack, "linnet_gateway_version_info") == {("m", "stable", "v2"): 1}
    assert samples(stack, "linnet_gateway_weight") == {("m", "v2"): 100}


def test_a_version_with_traffic_and_nothing_deployed_has_no_replica(stack):
    stack.policy("v9")
    assert samples(stack, "linnet_gateway_replicas")["m", "v9"] == 0


def test_while_the_cluster_was_not_heard_no_number_of_replicas_is_claimed(stack):
    stack.directory.heard = False
    assert samples(stack, "linnet_gateway_replicas") == {}
    assert samples(stack, "linnet_gateway_weight")["m", "v1"] == 100


def test_without_a_policy_versions_are_idle():
    directory = TableDirectory()
    directory.put("m", "v1", "http://a")
    found = list(standings(["m", "n"], directory, lambda _: None))
    assert found == [Standing("m", "v1", "idle", 0.0, 1)]
    policy = TrafficPolicy(model="n", revision=1, stable="v5")
    found = list(standings(["n"], directory, lambda _: policy))
    assert found == [Standing("n", "v5", "stable", 100.0, 0)]


def test_counters_that_alerts_look_at_begin_at_nought(stack):
    assert samples(stack, BREAKS) == {("m", "v1"): 0, ("m", "v2"): 0}
    assert samples(stack, "linnet_gateway_continued_streams_total") == {("m", "v1"): 0, ("m", "v2"): 0}
    refused = samples(stack, "linnet_gateway_refused_total")
    assert refused == {(reason,): 0 for reason in REASONS.values()}


@pytest.mark.parametrize("logged", [True, False])
def test_tokens_are_counted_by_kind_with_the_access_log_or_without(launch, logged):
    stack = launch(access_log={"enabled": logged})
    stack.engine("v1", whole)
    stack.policy()
    for _ in range(2):
        ask(stack)
    tokens = "linnet_gateway_tokens_total"
    eventually(lambda: stack.metric(tokens, kind="completion") == 6, "both answers are counted")
    # By kind, model and version.
    assert samples(stack, tokens) == {("prompt", "m", "v1"): 10, ("completion", "m", "v1"): 6}
    assert samples(stack, "linnet_gateway_itl_seconds_count") == {}


def test_a_stream_counts_its_tokens_and_their_pace(launch):
    stack = launch()
    stack.engine("v1", told)
    stack.policy()
    list(ask(stack, stream=True))
    eventually(lambda: stack.metric("linnet_gateway_itl_seconds_count", version="v1") == 1, "it is over")
    assert samples(stack, "linnet_gateway_tokens_total") == {("completion", "m", "v1"): 3}


def test_errors_count_by_their_code(stack):
    url = f"{stack.url}/v1/chat/completions"
    httpx.post(url, content=b"{")
    httpx.post(url, json={"model": "m", "messages": HELLO}, headers={"x-linnet-version": "v9"})
    stack.policy("v7")
    httpx.post(url, json={"model": "m", "messages": HELLO})
    # By code, model and version.
    assert samples(stack, "linnet_gateway_errors_total") == {
        ("invalid_json", "none", "none"): 1,
        ("version_not_found", "none", "none"): 1,
        ("no_replica", "m", "v7"): 1,
    }


def test_prometheus_is_told_where_each_gateway_listens(stack):
    stack.directory.beside = ("10.0.0.7:30000", "10.0.0.8:30000")
    answer = httpx.get(f"{stack.url}/metrics/targets")
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [{"targets": ["10.0.0.7:30000", "10.0.0.8:30000"], "labels": {}}]


def test_before_the_cluster_was_heard_the_list_is_refused_so_that_an_old_one_stays(stack):
    stack.directory.heard = False
    assert httpx.get(f"{stack.url}/metrics/targets").status_code == 503


def test_the_list_of_gateways_needs_an_admin_key_where_there_are_keys(launch):
    stack = launch(auth="required", replica_key="k")
    plain, admin = stack.key("ada"), stack.key("root", admin=True)
    statuses = [
        httpx.get(f"{stack.url}/metrics/targets", headers={"authorization": f"Bearer {key}"}).status_code
        for key in ("sk-linnet-unknown", plain, admin)
    ]
    assert statuses == [401, 403, 200]


def test_what_is_counted_at_the_end_costs_less_than_10_microseconds():
    """The best of several rounds, since a busy machine says nothing about the code."""
    metrics, rounds, best = GatewayMetrics(), 500, float("inf")
    row = observed()
    for _ in range(20):
        started = time.perf_counter()
        for _ in range(rounds):
            metrics.observed(row)
        best = min(best, (time.perf_counter() - started) / rounds)
    assert best * 1e6 < 10


def observed() -> Observation:
    return Observation(
        at=datetime.now(UTC),
        request_id="r",
        model="m",
        version="v1",
        route="/v1/chat/completions",
        key_hash="",
        stream=True,
        status=200,
        error_code="",
        ttft_s=0.1,
        itl_s=0.02,
        e2e_s=1.0,
        prompt_tokens=20,
        completion_tokens=40,
        finish_reason="stop",
        retries=0,
        continued=0,
    )
