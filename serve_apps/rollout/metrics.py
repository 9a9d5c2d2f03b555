"""What a gate can judge: names, units and which way is worse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Unit(StrEnum):
    """What a limit on a metric is given in."""

    SHARE = "share"
    SECONDS = "seconds"
    TOKENS = "tokens"
    TOKENS_PER_S = "tokens/s"
    NATS = "nats"
    NUMBER = "number"
    BYTES = "bytes"
    POINTS = "points"


class Kind(StrEnum):
    """How a metric comes about."""

    RATE = "rate"
    QUANTITY = "quantity"
    REPLICA = "replica"
    PAIRED = "paired"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `event` of each `exposure` are the tally's counts that a rate is made of.

    `lower_is_worse` is None where either way may be.
    """

    name: str
    kind: Kind
    unit: Unit
    lower_is_worse: bool | None = False
    event: str = ""
    exposure: str = "requests"


def _rate(name: str, event: str, exposure: str = "requests") -> Metric:
    return Metric(name, Kind.RATE, Unit.SHARE, event=event, exposure=exposure)


def _quantity(name: str, unit: Unit, *, lower_is_worse: bool | None = False) -> Metric:
    return Metric(name, Kind.QUANTITY, unit, lower_is_worse)


MEMORY = "memory"
QUALITY = "quality"
LOGPROB = "mean_logprob"
OTHER_SCRIPTS = "wrong_script_rate"
BANNED_WORDS = "banned_word_rate"

METRICS = {
    metric.name: metric
    for metric in (
        _rate("error_rate", "errors"),
        _rate("timeout_rate", "timeout"),
        _rate("broken_stream_rate", "broken_stream"),
        _rate("unavailable_rate", "unavailable"),
        _rate("left_rate", "left", "asked"),
        _rate("overloaded_rate", "overloaded", "asked"),
        _rate("retry_rate", "retried"),
        _rate("empty_rate", "empty"),
        _rate("cut_rate", "cut"),
        _rate("refusal_rate", "refusal", "texts"),
        _rate("repetition_rate", "repetition", "texts"),
        _rate("invalid_json_rate", "invalid_json", "json_texts"),
        _rate(OTHER_SCRIPTS, "wrong_script", "texts"),
        _rate(BANNED_WORDS, "banned_word", "texts"),
        _quantity("ttft", Unit.SECONDS),
        _quantity("itl", Unit.SECONDS),
        _quantity("e2el", Unit.SECONDS),
        _quantity("tokens_per_s", Unit.TOKENS_PER_S, lower_is_worse=True),
        _quantity("answer_tokens", Unit.TOKENS, lower_is_worse=None),
        _quantity(LOGPROB, Unit.NATS, lower_is_worse=True),
        Metric("restarts", Kind.REPLICA, Unit.NUMBER),
        Metric(MEMORY, Kind.REPLICA, Unit.BYTES),
        Metric(QUALITY, Kind.PAIRED, Unit.POINTS, lower_is_worse=True),
    )
}

TEXT_EVENTS = tuple(metric.event for metric in METRICS.values() if metric.exposure.endswith("texts"))
"""What is counted of texts, and may be compared in shadow pairs."""
