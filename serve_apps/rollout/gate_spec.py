"""One gate as the YAML says it: what is judged, against which limit, how gravely."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, model_validator

from cluster.config import StrictModel
from cluster.errors import did_you_mean
from serve_apps.rollout.metrics import MEMORY, METRICS, QUALITY, TEXT_EVENTS, Kind, Metric, Unit
from serve_apps.rollout.outside.config import (
    JudgeModel,
    PrometheusGate,
    PrometheusQuery,
    QualityGate,
    ScorerName,
    Webhook,
)
from serve_apps.rollout.question import question
from serve_apps.rollout.units import Duration, Latency, Memory, Pace, Points, Rate, Tokens, written

_LIMITED: dict[Unit, TypeAdapter[float]] = {
    Unit.SHARE: TypeAdapter(Rate),
    Unit.SECONDS: TypeAdapter(Latency),
    Unit.TOKENS: TypeAdapter(Tokens),
    Unit.TOKENS_PER_S: TypeAdapter(Pace),
    Unit.BYTES: TypeAdapter(Memory),
}
_NUMBER: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(strict=True, allow_inf_nan=False)])
_OF_ALL = ("metric", "prometheus", "webhook")
_GOES_WITH = {
    **dict.fromkeys(("severity", *_OF_ALL), _OF_ALL),
    **dict.fromkeys(("max", "min"), ("metric", "prometheus")),
    **dict.fromkeys(
        ("data", "sample", "seed", "scorer", "judge", "max_tokens", "api_key_env", "every"), (QUALITY,)
    ),
}
"""Keys of a gate by what they say something of; the others are of metrics."""
_LIMITS = ("max", "min", "max_ratio", "min_ratio", "max_increase", "max_drop")

_LEAST_OF_THRESHOLDS = 100

LEAST_EVERY = timedelta(minutes=1)
"""Twice the longest time between two looks, so that a round is judged before the next one is asked."""

STORED = {"stored": True}
"""To read what was stored with: all defaults are written out in it, some of which have been others."""


class Severity(StrEnum):
    """What a failed gate does: `critical` takes back at once, whatever `on_fail` says; `info` is shown."""

    CRITICAL = "critical"
    NORMAL = "normal"
    INFO = "info"


class Source(StrEnum):
    """Whose answers: those that callers got, or copies of stable's requests."""

    TRAFFIC = "traffic"
    SHADOW = "shadow"


class Gate(StrictModel):
    """Exactly one of `metric`, `prometheus` and `webhook`; a metric has exactly one limit.

    `max`, `min`: of the candidate alone, with a unit; with `for`, a plain threshold that must be
    exceeded for so long. `max_ratio`, `min_ratio`: times the baseline's. `max_increase`, `max_drop`:
    points, of the same prompts through both. Below `tolerate` a rate is well whatever the baseline's is.
    A gate has no verdict before `min_samples` answers of the candidate, with `for` 100 where nothing else
    is said: a plain threshold has no e-value that few answers would keep small.
    """

    metric: str | None = None
    source: Source = Source.TRAFFIC
    quantile: float | None = Field(default=None, gt=0, lt=1)
    max: Any = None
    min: Any = None
    max_ratio: float | None = Field(default=None, ge=1)
    min_ratio: float | None = Field(default=None, gt=0, le=1)
    max_increase: Points | None = None
    max_drop: Points | None = None
    tolerate: Rate | None = None
    for_: Duration | None = Field(default=None, alias="for")
    min_samples: int = Field(default=20, ge=1)
    severity: Severity = Severity.NORMAL
    data: str | None = None
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    scorer: ScorerName = ScorerName.EXACT
    judge: JudgeModel | None = None
    max_tokens: int = Field(default=256, ge=1)
    api_key_env: str | None = None
    every: Duration = timedelta(hours=1)
    prometheus: PrometheusQuery | None = None
    webhook: Webhook | None = None

    @model_validator(mode="before")
    @classmethod
    def _asks_more_of_thresholds(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("for") is not None:
            return {"min_samples": _LEAST_OF_THRESHOLDS, **given}
        return given

    def said(self) -> dict[str, Any]:
        """What differs from the defaults, of which plain thresholds have one of their own."""
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if self.for_ is not None:
            said.pop("min_samples", None)
            if self.min_samples != _LEAST_OF_THRESHOLDS:
                said["min_samples"] = self.min_samples
        return said

    @model_validator(mode="after")
    def _is_one_thing(self, info: ValidationInfo) -> Self:
        given = [name for name in ("metric", "prometheus", "webhook") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `metric`, `prometheus` and `webhook`")
        if info.context != STORED:
            self._check_keys(given[0])
            if self.every < LEAST_EVERY:
                raise ValueError(f"`every` is {written(LEAST_EVERY)} or more, which no round overtakes")
        if self.metric is not None:
            self._check_metric(_known(self.metric))
        elif self.prometheus is not None:
            self.query()
        return self

    def _check_keys(self, what: str) -> None:
        """A key that says nothing of this kind of gate would be ignored, which nobody means."""
        for name, field in type(self).model_fields.items():
            goes_with = _GOES_WITH.get(name, ("metric",))
            if (
                what not in goes_with
                and self.metric not in goes_with
                and getattr(self, name) != field.default
            ):
                raise ValueError(f"`{field.alias or name}` does not go with `{self.metric or what}`")
        # Counted or measured at one moment, without a test.
        if self.for_ is not None and self.metric is not None and _known(self.metric).kind is Kind.REPLICA:
            raise ValueError(f"`for` does not go with `{self.metric}`")

    def _check_metric(self, metric: Metric) -> None:
        limits = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(limits) != 1:
            raise ValueError(f"`{metric.name}` needs exactly one of {', '.join(_LIMITS)}")
        limit = limits[0]
        if limit not in _allowed(metric, self.source):
            raise ValueError(
                f"`{limit}` is no limit of `{metric.name}`; give {' or '.join(_allowed(metric, self.source))}"
            )
        if limit in ("max", "min"):
            self.absolute()
        if (self.quantile is None) == (metric.kind is Kind.QUANTITY):
            raise ValueError(
                f"`{metric.name}` needs a `quantile`, such as 0.95"
                if metric.kind is Kind.QUANTITY
                else f"`{metric.name}` has no quantile"
            )
        if self.for_ is not None and limit not in ("max", "min"):
            raise ValueError("`for` goes with `max` or `min`")
        if self.tolerate is not None and (metric.kind is not Kind.RATE or limit != "max_ratio"):
            raise ValueError("`tolerate` goes with `max_ratio` of a rate")
        if metric.name == QUALITY and self.data is None:
            raise ValueError("`quality` needs `data`")
        if self.data is not None:
            self.quality()
        if self.source is Source.SHADOW and metric.event not in TEXT_EVENTS:
            raise ValueError(f"`{metric.name}` is not counted in shadow pairs")
        self._check_limit(metric)

    def _check_limit(self, metric: Metric) -> None:
        """What the judge would refuse at the first look is refused here, with its line."""
        if metric.kind is Kind.REPLICA:
            self._check_count(metric)
            return
        try:
            question(self, alpha=0.5)
        except ValidationError as error:
            raise ValueError(_first(error)) from None

    def _check_count(self, metric: Metric) -> None:
        if self.max_ratio is None and self.absolute() < 0:
            raise ValueError(f"`max` of `{metric.name}` is a number from 0")

    def absolute(self) -> float:
        """`max` or `min` in the metric's own unit: a share, seconds, tokens, a number. Raises ValueError."""
        given = self.max if self.max is not None else self.min
        unit = _known(self.metric).unit if self.metric is not None else Unit.NUMBER
        try:
            return _LIMITED.get(unit, _NUMBER).validate_python(given)
        except ValidationError as error:
            raise ValueError(_first(error)) from None

    def query(self) -> PrometheusGate:
        """A query with its limits. For gates that are one; raises ValueError."""
        assert self.prometheus is not None
        return PrometheusGate(prometheus=self.prometheus, max=self.max, min=self.min)

    def quality(self) -> QualityGate:
        """A held-out set with how it is asked. For gates that are one; raises ValueError."""
        assert self.data is not None
        assert self.max_drop is not None
        return QualityGate(
            data=self.data,
            max_drop=f"{self.max_drop * 100:.10g} points",
            every=self.every,
            scorer=self.scorer,
            judge=self.judge,
            sample=self.sample,
            seed=self.seed,
            max_tokens=self.max_tokens,
            api_key_env=self.api_key_env,
        )

    @property
    def needs_answers_of_baseline(self) -> bool:
        """Whether it compares with them; there are none at 100%."""
        return (self.max_ratio is not None or self.min_ratio is not None) and self.metric != MEMORY

    @property
    def name(self) -> str:
        """What it is called in events and tables, and known by within its policy."""
        if self.prometheus is not None:
            return f"prometheus {self.prometheus.query}"
        if self.webhook is not None:
            return f"webhook {self.webhook.url}"
        shadow = " of shadow pairs" if self.source is Source.SHADOW else ""
        at = "" if self.quantile is None else f" p{self.quantile * 100:g}"
        limit = next(name for name in _LIMITS if getattr(self, name) is not None)
        for_ = "" if self.for_ is None else f" for {written(self.for_)}"
        return f"{self.metric}{at}{shadow} {limit}{for_}"


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    where = "".join(f"`{part}`: " for part in found["loc"])
    return where + found["msg"].removeprefix("Value error, ")


def _known(name: str) -> Metric:
    if name not in METRICS:
        raise ValueError(
            f"`{name}` is not a metric.{did_you_mean(name, METRICS)} Known: {', '.join(METRICS)}"
        )
    return METRICS[name]


def _allowed(metric: Metric, source: Source) -> tuple[str, ...]:
    if source is Source.SHADOW:
        return ("max_increase",)
    match metric.kind:
        case Kind.RATE:
            return ("max", "max_ratio")
        case Kind.PAIRED:
            return ("max_drop",)
        case Kind.REPLICA:
            return ("max", "max_ratio") if metric.name == MEMORY else ("max",)
    if metric.lower_is_worse is None:
        return ("max", "min", "max_ratio", "min_ratio")
    return ("min", "min_ratio") if metric.lower_is_worse else ("max", "max_ratio")
