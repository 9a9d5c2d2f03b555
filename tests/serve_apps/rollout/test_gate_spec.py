from __future__ import annotations

import pytest
from pydantic import ValidationError

from serve_apps.rollout.gate_spec import LEAST_EVERY, STORED, Gate
from serve_apps.rollout.metrics import METRICS, Kind

HOOK = {"webhook": {"url": "http://ci", "kind": "gate"}}
QUERY = {"prometheus": {"url": "http://p", "query": "up"}, "max": 3}
QUALITY = {"metric": "quality", "data": "set.jsonl", "max_drop": "5 points"}
SHADOWED = {"metric": "refusal_rate", "source": "shadow", "max_increase": "2 points"}

ACCEPTED = [
    {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "1%", "min_samples": 50, "severity": "critical"},
    {"metric": "error_rate", "max": "5%", "for": "5m"},
    {"metric": "ttft", "quantile": 0.99, "max_ratio": 2},
    {"metric": "ttft", "quantile": 0.95, "max": "800ms"},
    {"metric": "tokens_per_s", "quantile": 0.5, "min_ratio": 0.8},
    {"metric": "tokens_per_s", "quantile": 0.1, "min": "20 tokens/s"},
    {"metric": "answer_tokens", "quantile": 0.5, "max": "200 tokens"},
    {"metric": "mean_logprob", "quantile": 0.5, "min": -1.5},
    {"metric": "restarts", "max": 0},
    {"metric": "memory", "max": "12 GiB"},
    {"metric": "memory", "max_ratio": 1.2},
    SHADOWED,
    QUALITY | {"every": "30m", "sample": 20, "seed": 4, "severity": "info"},
    QUERY,
    HOOK,
]


def refusal(**gate):
    with pytest.raises(ValidationError) as caught:
        Gate.model_validate(gate)
    return caught.value.errors()[0]["msg"]


@pytest.mark.parametrize("gate", ACCEPTED, ids=lambda gate: gate.get("metric") or next(iter(gate)))
def test_what_is_accepted_is_stored_and_read_as_the_same(gate):
    read = Gate.model_validate(gate)
    assert Gate.model_validate(read.model_dump(mode="json", by_alias=True, exclude_none=True)) == read


def test_an_unknown_metric_gets_the_nearest_and_all_that_there_are():
    told = refusal(metric="eror_rate", max_ratio=2)
    assert "`eror_rate` is not a metric" in told
    assert "error_rate" in told
    assert all(name in told for name in METRICS)


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({"metric": "error_rate", "max": 0.02}, "the unit is missing (%)"),
        ({"metric": "ttft", "quantile": 0.5, "max": 1}, "the unit is missing"),
        ({"metric": "ttft", "quantile": 0.5, "max": "1"}, "the unit is missing"),
        ({"metric": "ttft", "quantile": 0.5, "max": "2%"}, "this is no latency"),
        ({"metric": "tokens_per_s", "quantile": 0.5, "min": 20}, "the unit is missing (tokens/s)"),
        ({"metric": "answer_tokens", "quantile": 0.5, "max": 20}, "the unit is missing (tokens)"),
        ({"metric": "memory", "max": 12}, "the unit is missing (TiB, GiB, MiB); write it such as 12 GiB"),
        ({"metric": "memory", "max": "12 GB"}, "this is no amount of memory in TiB, GiB, MiB"),
        (QUALITY | {"max_drop": 5}, "the unit is missing (points"),
        ({"metric": "error_rate", "max_ratio": 2, "tolerate": 0.01}, "the unit is missing (%)"),
    ],
)
def test_a_limit_without_its_unit_says_which_there_are(gate, told):
    assert told in refusal(**gate)


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ({}, "exactly one of `metric`, `prometheus` and `webhook`"),
        (QUERY | {"metric": "error_rate"}, "exactly one of `metric`, `prometheus` and `webhook`"),
        ({"metric": "error_rate"}, "needs exactly one of max, min"),
        ({"metric": "error_rate", "max": "2%", "max_ratio": 2}, "needs exactly one of max, min"),
        ({"metric": "error_rate", "min_ratio": 0.5}, "`min_ratio` is no limit of `error_rate`"),
        ({"metric": "ttft", "quantile": 0.5, "min": "1s"}, "give max or max_ratio"),
        ({"metric": "tokens_per_s", "quantile": 0.5, "max_ratio": 2}, "give min or min_ratio"),
        ({"metric": "quality", "data": "x", "max_ratio": 2}, "give max_drop"),
        ({"metric": "ttft", "max_ratio": 2}, "needs a `quantile`, such as 0.95"),
        ({"metric": "error_rate", "quantile": 0.5, "max_ratio": 2}, "has no quantile"),
        ({"metric": "error_rate", "max_ratio": 2, "for": "5m"}, "`for` goes with `max` or `min`"),
        ({"metric": "error_rate", "max": "2%", "tolerate": "1%"}, "`tolerate` goes with `max_ratio`"),
        ({"metric": "quality", "max_drop": "5 points"}, "`quality` needs `data`"),
        (
            {"metric": "error_rate", "source": "shadow", "max_increase": "2 points"},
            "`error_rate` is not counted in shadow pairs",
        ),
        ({"metric": "refusal_rate", "source": "shadow", "max_ratio": 2}, "give max_increase"),
        ({"metric": "restarts", "max_ratio": 2}, "give max"),
        ({"metric": "memory", "max_ratio": 2, "quantile": 0.5}, "has no quantile"),
        ({"metric": "memory", "max": "12 GiB", "for": "5m"}, "`for` does not go with `memory`"),
        ({"metric": "restarts", "max": 1, "for": "5m"}, "`for` does not go with `restarts`"),
    ],
)
def test_what_does_not_fit_together_is_refused(gate, told):
    assert told in refusal(**gate)


@pytest.mark.parametrize(
    ("gate", "key"),
    [
        (QUERY | {"for": "5m"}, "for"),
        (QUERY | {"quantile": 0.5}, "quantile"),
        (HOOK | {"max": 3}, "max"),
        (HOOK | {"min_samples": 10}, "min_samples"),
        ({"metric": "error_rate", "max_ratio": 2, "data": "set.jsonl"}, "data"),
        ({"metric": "error_rate", "max_ratio": 2, "every": "5m"}, "every"),
        ({"metric": "error_rate", "max_ratio": 2, "scorer": "contains"}, "scorer"),
    ],
)
def test_a_key_that_would_be_ignored_is_refused(gate, key):
    assert f"`{key}` does not go with" in refusal(**gate)


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "error_rate", "max": "0%"},
        {"metric": "error_rate", "max": "100%"},
        {"metric": "error_rate", "max": "100%", "for": "1m"},
        {"metric": "error_rate", "max": "2%", "for": "0s"},
        {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "0%"},
        {"metric": "error_rate", "max_ratio": 1.5, "tolerate": "100%"},
        {"metric": "error_rate", "max_ratio": float("inf")},
        {"metric": "ttft", "quantile": 0.5, "max": "0ms"},
        {"metric": "answer_tokens", "quantile": 0.5, "min": "0 tokens"},
        {"metric": "mean_logprob", "quantile": 0.5, "min": 1.5},
        {"metric": "refusal_rate", "source": "shadow", "max_increase": "100 points"},
        {"metric": "restarts", "max": -1},
        QUALITY | {"max_drop": "100 points"},
    ],
    ids=str,
)
def test_a_limit_that_the_judge_could_not_judge_is_refused_at_once(gate):
    assert refusal(**gate)


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        ({"metric": "error_rate", "max_ratio": 1.5}, "error_rate max_ratio"),
        ({"metric": "error_rate", "max": "5%", "for": "5m"}, "error_rate max for 5m"),
        ({"metric": "ttft", "quantile": 0.999, "max": "1s"}, "ttft p99.9 max"),
        (SHADOWED, "refusal_rate of shadow pairs max_increase"),
        (QUERY, "prometheus up"),
        (HOOK, "webhook http://ci"),
    ],
)
def test_a_gate_is_named_by_what_it_compares(gate, name):
    assert Gate.model_validate(gate).name == name


def test_absolute_limits_are_in_the_metrics_own_unit():
    def limit(**gate):
        return Gate.model_validate(gate).absolute()

    assert limit(metric="error_rate", max="2%") == 0.02
    assert limit(metric="ttft", quantile=0.5, max="800ms") == 0.8
    assert limit(metric="tokens_per_s", quantile=0.5, min="20 tokens/s") == 20
    assert limit(metric="memory", max="1.5 GiB") == 1536 * 2**20


BETTER = [
    (metric.name, limit)
    for metric in METRICS.values()
    if metric.kind is Kind.QUANTITY and metric.lower_is_worse is not None
    for limit in (("max", "max_ratio") if metric.lower_is_worse else ("min", "min_ratio"))
]


@pytest.mark.parametrize(("name", "limit"), BETTER)
def test_no_quantity_takes_a_limit_on_its_better_side(name, limit):
    value = {"max_ratio": 2, "min_ratio": 0.5}.get(limit, "1s")
    assert "is no limit of" in refusal(metric=name, quantile=0.5, **{limit: value})


def test_a_plain_threshold_asks_for_more_answers_than_a_test_that_holds_after_few():
    def least(**gate):
        return Gate.model_validate({"metric": "error_rate", **gate}).min_samples

    assert (least(max_ratio=1.5), least(max="5%")) == (20, 20)
    assert least(max="5%", **{"for": "5m"}) == 100
    assert least(max="5%", min_samples=7, **{"for": "5m"}) == 7


@pytest.mark.parametrize("gate", [HOOK, QUERY])
def test_what_was_stored_with_other_defaults_is_read(gate):
    stored = Gate.model_validate(gate).model_dump(mode="json", by_alias=True, exclude_none=True)
    stored["min_samples"] = 100
    assert Gate.model_validate(stored, context=STORED).name == Gate.model_validate(gate).name
    assert "`min_samples` does not go with" in refusal(**stored)


def test_rounds_are_not_asked_faster_than_they_are_judged():
    assert "`every` is 1m or more" in refusal(**QUALITY, every="59s")
    assert Gate.model_validate({**QUALITY, "every": "1m"}).every == LEAST_EVERY
    assert Gate.model_validate({**QUALITY, "every": "30s"}, context=STORED).every < LEAST_EVERY


def test_what_an_older_version_took_is_read_where_it_is_stored():
    held = {"metric": "restarts", "max": 0, "for": "5m"}
    assert Gate.model_validate(held, context=STORED).for_ is not None
    with pytest.raises(ValidationError, match="does not go with"):
        Gate.model_validate(held)
