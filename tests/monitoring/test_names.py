"""Every metric that a rule or the board reads exists: in the gateway, or in Ray or vLLM as installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from serve_apps.gateway.metrics import GatewayMetrics
from tests.monitoring.shipped import RECORDED, expressions, names

# Prometheus' own: of each scrape, and of alerts.
PROMETHEUS = {"up", "ALERTS"}

# Name on Ray's port -> where it is made, and how it is written there. Names get `ray_` in front, counters
# `_total` at the end, and vLLM's colon becomes an underscore.
RAY = "ray/dashboard/modules/reporter/reporter_agent.py"
VLLM = "vllm/v1/metrics/loggers.py"
ELSEWHERE = {
    "ray_node_mem_used": (RAY, r'Gauge\(\s*"node_mem_used"'),
    "ray_node_mem_total": (RAY, r'Gauge\(\s*"node_mem_total"'),
    "ray_node_cpu_utilization": (RAY, r'Gauge\(\s*"node_cpu_utilization"'),
    "ray_node_disk_free": (RAY, r'Gauge\(\s*"node_disk_free"'),
    "ray_vllm_prompt_tokens_total": (VLLM, r'_counter_cls\(\s*name="vllm:prompt_tokens"'),
    "ray_vllm_generation_tokens_total": (VLLM, r'_counter_cls\(\s*name="vllm:generation_tokens"'),
    "ray_vllm_num_requests_running": (VLLM, r'_gauge_cls\(\s*name="vllm:num_requests_running"'),
    "ray_vllm_num_requests_waiting": (VLLM, r'_gauge_cls\(\s*name="vllm:num_requests_waiting"'),
    "ray_vllm_kv_cache_usage_perc": (VLLM, r'_gauge_cls\(\s*name="vllm:kv_cache_usage_perc"'),
}


def installed(path: str) -> str:
    """A source file of an installed package, which is not imported for it."""
    package, _, rest = path.partition("/")
    [folder] = importlib.util.find_spec(package).submodule_search_locations
    return (Path(folder) / rest).read_text()


@pytest.mark.parametrize(("where", "expression"), expressions().items(), ids=list(expressions()))
def test_every_metric_exists(where, expression):
    gateway = set(GatewayMetrics().registry._names_to_collectors)
    assert names(expression) <= gateway | RECORDED | PROMETHEUS | set(ELSEWHERE), where


@pytest.mark.parametrize("name", ELSEWHERE)
def test_metrics_of_ray_and_vllm_are_in_their_installed_source(name):
    path, written = ELSEWHERE[name]
    assert re.search(written, installed(path)), path


def test_nothing_is_listed_or_recorded_that_nobody_reads():
    read = set().union(*map(names, expressions().values()))
    assert set(ELSEWHERE) - read == set()
    assert RECORDED - read == set()


def test_ray_names_and_labels_them_as_the_rules_expect():
    assert 'NAMESPACE = "ray"' in installed("ray/_private/telemetry/open_telemetry_metric_recorder.py")
    assert re.search(r'NODE_TAG_KEYS = \["ip",', installed("ray/dashboard/consts.py"))
    assert re.search(r'labelnames = \["model_name", "engine"\]', installed(VLLM))
    assert 're.sub(r"[^a-zA-Z0-9_]", "_", name)' in installed("vllm/v1/metrics/ray_wrappers.py")
    assert '"/api/prometheus/sd"' in installed("ray/dashboard/modules/reporter/reporter_head.py")
    assert '[{"labels": {"job": "ray"}, "targets":' in installed("ray/_private/metrics_agent.py")


def test_engines_count_into_rays_metrics_by_themselves():
    from ray.serve.llm import LLMConfig

    assert LLMConfig.model_fields["log_engine_metrics"].default is True


def test_names_are_found_and_words_labels_and_functions_are_not():
    found = names(
        'sum by (model) (rate(a_total{b="c"}[5m])) / on (d) group_left (e) f:g:h and 2 > scalar(up)'
    )
    assert found == {"a_total", "f:g:h", "up"}
