from __future__ import annotations

import pytest

from serve_apps.rollout import quantities
from serve_apps.rollout.gate_spec import Gate
from serve_apps.rollout.judge.finding import Finding, Verdict


def gate(**given) -> Gate:
    return Gate.model_validate(given)


RATIO = gate(metric="error_rate", max_ratio=1.5)
TTFT = gate(metric="ttft", quantile=0.95, max="800ms")


def finding(effect, low, high) -> Finding:
    return Finding(
        verdict=Verdict.PASS,
        reason="",
        effect=effect,
        low=low,
        high=high,
        limit=1.0,
        samples=100,
        missing=0,
        log_e_worse=0.0,
        log_e_fine=0.0,
    )


@pytest.mark.parametrize(
    ("given", "value", "written"),
    [
        (RATIO, 1.234, "1.23x"),
        (gate(metric="error_rate", max="5%"), 0.0123, "1.23%"),
        (gate(metric="error_rate", max="5%", **{"for": "5m"}), 0.0123, "1.23%"),
        (TTFT, 0.0421, "42.1 ms"),
        (TTFT, 1.6, "1.6 s"),
        (gate(metric="ttft", quantile=0.95, max="800ms", **{"for": "5m"}), 0.05, "5%"),
        (gate(metric="tokens_per_s", quantile=0.5, min="20 tokens/s"), 31.0, "31 tokens/s"),
        (gate(metric="answer_tokens", quantile=0.5, max="200 tokens"), 120.0, "120 tokens"),
        (gate(metric="refusal_rate", source="shadow", max_increase="2 points"), 0.0345, "3.45 points"),
        (gate(metric="quality", data="set.jsonl", max_drop="5 points"), -0.01, "-1 points"),
        (gate(metric="restarts", max=2), 1.0, "1"),
        (gate(metric="memory", max="12 GiB"), 831.0 * 2**20, "831 MiB"),
        (gate(metric="memory", max="12 GiB"), 4.2134 * 2**30, "4.213 GiB"),
        (gate(metric="memory", max_ratio=1.2), 1.084, "1.08x"),
    ],
)
def test_effects_are_in_the_unit_of_their_limits(given, value, written):
    assert quantities.in_unit(given, value) == written


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (RATIO, "at most 1.5x"),
        (gate(metric="tokens_per_s", quantile=0.5, min_ratio=0.8), "at least 0.8x"),
        (TTFT, "at most 800 ms"),
        (gate(metric="memory", max="12 GiB"), "at most 12 GiB"),
        (gate(metric="memory", max_ratio=1.2), "at most 1.2x"),
        (gate(metric="error_rate", max="5%", **{"for": "5m"}), "at most 5% for 5m"),
        (gate(metric="quality", data="set.jsonl", max_drop="5 points"), "at most 5 points"),
        (gate(webhook={"url": "https://checks.example.com"}), ""),
    ],
)
def test_limits_are_as_people_wrote_them(given, written):
    assert quantities.limit(given) == written


def test_an_interval_is_shown_as_far_as_it_is_known():
    assert quantities.measured(RATIO, finding(1.08, 0.97, 1.31)) == "1.08x (0.97 to 1.31)"
    assert quantities.measured(RATIO, finding(1.08, 0.97, None)) == "1.08x (at least 0.97)"
    assert quantities.measured(RATIO, finding(1.08, None, None)) == "1.08x"
    assert quantities.measured(RATIO, finding(None, None, None)) == ""
    assert quantities.measured(TTFT, finding(0.164, 0.153, 0.179)) == "164 ms (153 ms to 179 ms)"


def test_a_log_probability_has_its_sign():
    doubts = gate(metric="mean_logprob", quantile=0.5, min=-2)
    assert quantities.measured(doubts, finding(2.1, 1.9, 2.5)) == "-2.1 nats (-2.5 nats to -1.9 nats)"
    assert quantities.measured(doubts, finding(2.1, 1.9, None)) == "-2.1 nats (at most -1.9 nats)"
    times = gate(metric="mean_logprob", quantile=0.5, min_ratio=0.8)
    assert quantities.measured(times, finding(1.3, 1.2, 1.4)) == "1.3x (1.2 to 1.4)"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "1.7 h"), (200_000, "2.3 days")],
)
def test_spans_are_about(seconds, written):
    assert quantities.span(seconds) == written


@pytest.mark.parametrize(
    ("given", "unit"),
    [
        (RATIO, "answers"),
        (gate(metric="left_rate", max_ratio=2), "requests"),
        (gate(metric="repetition_rate", max_ratio=2), "texts"),
        (gate(metric="refusal_rate", source="shadow", max_increase="2 points"), "pairs"),
    ],
)
def test_what_is_counted(given, unit):
    assert quantities.samples_are(given) == unit


def test_at_100_percent_only_limits_of_its_own_are_left():
    assert quantities.compares(RATIO, 99.99)
    assert not quantities.compares(RATIO, 100)
    assert quantities.compares(TTFT, 100)
    assert quantities.compares(gate(metric="memory", max_ratio=1.2), 100), "stable's replicas are still there"
