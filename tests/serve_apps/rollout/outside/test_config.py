from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from cluster.config import validate
from cluster.errors import ConfigError
from serve_apps.rollout.outside.config import (
    PrometheusGate,
    QualityGate,
    ScorerName,
    Slack,
    Webhook,
    WebhookKind,
)


def read(model, **tree):
    return validate(tree, model, source="canary.yaml")


NO_URLS = [
    "ftp://example.com",
    "example.com/gate",
    "http://",
    "http://:8000/",
    "http://h:99999/",
    "http://a..b/",
    "http://.:8/",
    f"http://{'a' * 64}/",
    "http://exa mple/",
    "http://example.com/a b",
    "http://example.com/\n",
    "http://ex\tample.com/",
    "http://a\\b/",
    "http://-/",
    "http://%zz/",
    "http://ü.example/",
    "http://[::1",
]
PROMETHEUS = {"url": "http://localhost:9090", "query": "up"}
QUALITY = {"data": "set.jsonl", "max_drop": "5 points"}
JUDGE = {"url": "https://api.example.com/v1", "model": "judge"}


def test_little_needs_to_be_written():
    assert read(Webhook, url="https://example.com/gate").kind is WebhookKind.GATE
    assert read(Slack).url_env == "LINNET_SLACK_URL"
    assert read(PrometheusGate, prometheus=PROMETHEUS, max=3).prometheus.timeout == timedelta(seconds=10)
    quality = read(QualityGate, metric="quality", every="24h", **QUALITY)
    assert (quality.max_drop, quality.every, quality.scorer, quality.concurrency) == (
        0.05,
        timedelta(days=1),
        ScorerName.EXACT,
        2,
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "http://127.0.0.1:80/a?b=c#d",
        "https://a-b.example.com.:443/%20",
        "http://[::1]:8000/",
        "http://my_host/",
    ],
)
def test_urls_of_hosts_and_addresses_are_taken(url):
    assert read(Webhook, url=url).url == url


@pytest.mark.parametrize(
    ("model", "tree", "said"),
    [
        *((Webhook, {"url": url}, "this is not an http or https URL") for url in NO_URLS),
        (Webhook, {"url": "https://ada:pw@example.com/"}, "holds a name or a password"),
        (Webhook, {"url": "https://example.com", "kind": "confirm"}, "'confirm-start'"),
        (Webhook, {"url": "https://example.com", "secret_env": "no spaces"}, "should match pattern"),
        (Webhook, {"url": "https://example.com", "timeout": 10}, "the unit is missing"),
        (Webhook, {"url": "https://example.com", "timeout": "0s"}, "more than 0s and at most 10m"),
        (Webhook, {"url": "https://example.com", "timeout": "11m"}, "more than 0s and at most 10m"),
        (Webhook, {"url": "https://example.com", "secert_env": "X"}, "Did you mean `secret_env`?"),
        (PrometheusGate, {"prometheus": PROMETHEUS}, "give `max`, `min` or both"),
        (PrometheusGate, {"prometheus": PROMETHEUS, "max": 1, "min": 2}, "`min` 2 is above `max` 1"),
        (PrometheusGate, {"prometheus": PROMETHEUS, "max": float("nan")}, "finite number"),
        (
            PrometheusGate,
            {"prometheus": PROMETHEUS | {"query": "up{v='{{candidat}}'}"}, "max": 1},
            "`{{candidat}}` is no placeholder. Did you mean `candidate`?",
        ),
        (PrometheusGate, {"prometheus": PROMETHEUS | {"query": ""}, "max": 1}, "at least 1 character"),
        (QualityGate, QUALITY | {"max_drop": 0.05}, "the unit is missing (points"),
        (QualityGate, QUALITY | {"scorer": "judge"}, "`scorer: judge` needs `judge`"),
        (QualityGate, QUALITY | {"deadline": "30s"}, "`deadline`, of a whole round, is below `timeout`"),
        (QualityGate, QUALITY | {"every": "0s"}, "`every` is more than 0s"),
        (QualityGate, QUALITY | {"sample": 0}, "greater than or equal to 1"),
        (QualityGate, QUALITY | {"judge": {"url": "http://j/v1"}}, "`judge.model` is missing"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(model, tree, said):
    with pytest.raises(ConfigError) as caught:
        read(model, **tree)
    assert said in caught.value.message


@pytest.mark.parametrize(
    "config",
    [
        read(Webhook, url="https://example.com/gate", kind="confirm-step", timeout="1.5s"),
        read(Slack, url_env="TEAM", timeout="5s"),
        read(PrometheusGate, prometheus=PROMETHEUS | {"token_env": "T"}, max=0.1, min=-3),
        read(QualityGate, **QUALITY, scorer="judge", judge=JUDGE, sample=50, seed=3, deadline="2h"),
    ],
)
def test_a_stored_spec_reads_as_it_was_written(config):
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_a_gateway_may_read_it_without_growing():
    program = (
        "import sys, serve_apps.rollout.outside.config\n"
        "print({'pyarrow', 'numpy', 'scipy', 'pandas', 'ray', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
