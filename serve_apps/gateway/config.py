"""What the YAML's `args` say about a gateway."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import Field, PositiveFloat, model_validator

from cluster.config import StrictModel
from cluster.refs import AliasRef, parse_ref
from serve_apps.access_log.config import AccessLogConfig
from serve_apps.gateway.routing import RoutingConfig
from serve_apps.tracing.config import TracesConfig


class Auth(StrEnum):
    """Who needs an API key."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class AdminPaths(StrEnum):
    """Who may read `/metrics` where there are API keys."""

    ADMIN_KEY = "admin_key"
    PUBLIC = "public"


class GatewayConfig(StrictModel):
    """Give `model` or `models`, not both; `models` holds the names either way.

    `max_body_bytes`: larger request bodies are refused with 413, and with 408 those that take
    longer than `body_timeout_s` to come; a caller who takes nothing of an answer for
    `reader_timeout_s` is hung up on. `connect_timeout_s`: to reach a
    replica. `request_timeout_s`: from being let in to the last byte of the answer.
    `replica_wait_s`: how long a request may wait for a replica of its version before 503, and
    `cold_start_wait_s` where the version sleeps, being woken.
    `access_log`: how requests are logged.
    `max_in_flight`: requests that this gateway answers at a time; `max_in_flight_per_replica`:
    the same for each running replica of a version. `max_queue`: how many may wait to be let in,
    for each version; `queue_wait_s`: how long, before 429. `traces`: where traces go, if anywhere.
    `routing`: which replica of its version takes a request.
    """

    model: str | None = None
    models: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    body_timeout_s: PositiveFloat = 30.0
    reader_timeout_s: PositiveFloat = 60.0
    connect_timeout_s: PositiveFloat = 2.0
    request_timeout_s: PositiveFloat = 600.0
    replica_wait_s: float = Field(default=5.0, ge=0.0)
    cold_start_wait_s: float = Field(default=120.0, ge=0.0)
    access_log: AccessLogConfig = AccessLogConfig()
    auth: Auth = Auth.NONE
    admin_paths: AdminPaths = AdminPaths.ADMIN_KEY
    max_in_flight: int = Field(default=4096, ge=1)
    max_in_flight_per_replica: int = Field(default=256, ge=1)
    max_queue: int = Field(default=1024, ge=0)
    queue_wait_s: float = Field(default=5.0, ge=0.0)
    traces: TracesConfig | None = None
    routing: RoutingConfig = RoutingConfig()

    @model_validator(mode="before")
    @classmethod
    def _one_model_is_a_list(cls, given: Any) -> Any:
        if isinstance(given, dict) and "model" in given and not given.get("models"):
            return {**given, "models": (given["model"],)}
        return given

    @model_validator(mode="after")
    def _names_models(self) -> Self:
        if not self.models or (self.model is not None and self.models != (self.model,)):
            raise ValueError("give either `model` or a non-empty list of `models`")
        for name in self.models:
            if "@" in name or not isinstance(parse_ref(name), AliasRef):
                raise ValueError(f"`{name}` names a version; give the model's name alone")
        return self
