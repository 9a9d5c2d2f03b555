"""What people write of webhooks, Slack, Prometheus and held-out sets.

A gateway may read it as a part of its own config, so it imports nothing large.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from cluster.config import StrictModel
from serve_apps.rollout.outside.placeholders import require_known
from serve_apps.rollout.units import Duration, Points

_LONGEST = timedelta(minutes=10)
_VISIBLE = re.compile(r"[!-~]+")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|[0-9a-f:.]*:[0-9a-f:.]*")


def is_http_url(url: str) -> bool:
    """Whether it names a host that can be looked up, and holds nothing that needs to be encoded."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    is_visible = _VISIBLE.fullmatch(url) is not None
    return (
        is_visible and parts.scheme in ("http", "https") and _HOST.fullmatch(parts.hostname or "") is not None
    )


def _http_url(url: str) -> str:
    if not is_http_url(url):
        raise ValueError("this is not an http or https URL")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL holds a name or a password, which would be stored with the rollout")
    return url


def _bounded(timeout: timedelta) -> timedelta:
    if not timedelta(0) < timeout <= _LONGEST:
        raise ValueError("a timeout is more than 0s and at most 10m")
    return timeout


Url = Annotated[str, AfterValidator(_http_url)]
Timeout = Annotated[Duration, AfterValidator(_bounded)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable: secrets are never written into a spec, which is stored."""
Limit = Annotated[float, Field(allow_inf_nan=False)]


class WebhookKind(StrEnum):
    """What a webhook is for: to agree to a start or to a step, to judge, or to be told."""

    CONFIRM_START = "confirm-start"
    CONFIRM_STEP = "confirm-step"
    GATE = "gate"
    EVENT = "event"


class Webhook(StrictModel):
    """An HTTP receiver of signed messages; `secret_env` names the variable with the secret shared with it.

    `timeout` bounds one call as a whole, from the connection to the last byte of the answer.
    """

    url: Url
    kind: WebhookKind = WebhookKind.GATE
    secret_env: Variable = "LINNET_WEBHOOK_SECRET"
    timeout: Timeout = timedelta(seconds=10)


class Slack(StrictModel):
    """A Slack-compatible incoming webhook; `url_env` names the variable with its URL, which is a secret."""

    url_env: Variable = "LINNET_SLACK_URL"
    timeout: Timeout = timedelta(seconds=10)


class PrometheusQuery(StrictModel):
    """One number of a Prometheus server; `url` is what `/api/v1/query` comes after.

    `{{model}}`, `{{candidate}}` and `{{stable}}` in `query` become the names of the rollout. `token_env`
    names the variable with a bearer token.
    """

    url: Url
    query: Annotated[str, StringConstraints(min_length=1), AfterValidator(require_known)]
    token_env: Variable | None = None
    timeout: Timeout = timedelta(seconds=10)


class PrometheusGate(StrictModel):
    """The candidate fails where the query's value is above `max` or below `min`."""

    prometheus: PrometheusQuery
    max: Limit | None = None
    min: Limit | None = None

    @model_validator(mode="after")
    def _has_limits(self) -> Self:
        if self.max is None and self.min is None:
            raise ValueError("give `max`, `min` or both")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min:g} is above `max` {self.max:g}")
        return self


class ScorerName(StrEnum):
    """How an answer of the held-out set is scored."""

    EXACT = "exact"
    CONTAINS = "contains"
    CHOICE = "choice"
    JSON_VALID = "json_valid"
    JUDGE = "judge"


class JudgeModel(StrictModel):
    """A model behind an OpenAI-compatible API that compares two answers; `url` ends with `/v1`."""

    url: Url
    model: Annotated[str, StringConstraints(min_length=1)]
    api_key_env: Variable | None = None
    timeout: Timeout = timedelta(seconds=60)


class QualityGate(StrictModel):
    """A held-out set, asked of both versions `every` so often; its mean score may drop by `max_drop`.

    `data` is a path or a storage URL of JSONL. `scorer` holds for rows that name none. `sample` rows are
    asked a round, the next ones of an order that `seed` decides; all of them without it. `timeout` bounds
    one answer, `deadline` a round. `api_key_env` names the variable with the endpoint's own key.
    """

    metric: Literal["quality"] = "quality"
    data: Annotated[str, StringConstraints(min_length=1)]
    max_drop: Points
    every: Duration = timedelta(hours=1)
    scorer: ScorerName = ScorerName.EXACT
    judge: JudgeModel | None = None
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    concurrency: int = Field(default=2, ge=1, le=64)
    max_tokens: int = Field(default=256, ge=1)
    timeout: Timeout = timedelta(seconds=60)
    deadline: Duration = timedelta(minutes=30)
    api_key_env: Variable | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scorer is ScorerName.JUDGE and self.judge is None:
            raise ValueError("`scorer: judge` needs `judge`, with the url and the model that compares")
        if self.deadline < self.timeout:
            raise ValueError("`deadline`, of a whole round, is below `timeout`, of one answer")
        if not self.every:
            raise ValueError("`every` is more than 0s")
        return self
