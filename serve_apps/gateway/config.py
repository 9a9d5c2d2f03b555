"""What the YAML's `args` say about a gateway."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, PositiveFloat, model_validator

from cluster.config import StrictModel
from cluster.refs import AliasRef, parse_ref
from serve_apps.access_log.config import AccessLogConfig


class GatewayConfig(StrictModel):
    """Give `model` or `models`, not both; `models` holds the names either way.

    `max_body_bytes`: larger request bodies are refused with 413. `connect_timeout_s`: to reach
    a replica. `request_timeout_s`: from choosing a version to the last byte of the answer.
    `replica_wait_s`: how long a request may wait for a replica of its version before 503.
    `access_log`: how requests are logged.
    """

    model: str | None = None
    models: tuple[str, ...] = ()
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    connect_timeout_s: PositiveFloat = 2.0
    request_timeout_s: PositiveFloat = 600.0
    replica_wait_s: float = Field(default=5.0, ge=0.0)
    access_log: AccessLogConfig = AccessLogConfig()

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
