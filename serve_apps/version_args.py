"""What a version's application takes as `args` in the `serve deploy` YAML.

The shape is that of Ray Serve LLM's `LLMConfig`; `version` replaces `model_loading_config`,
because the weights come from the model store alone (rule 9).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from cluster.config import StrictModel
from cluster.refs import VersionRef, parse_version_ref

_SET_BY_LINNET = {"model", "served_model_name", "tokenizer"}


class VersionArgs(StrictModel):
    """One version to serve, `engine_kwargs` passed to vLLM as they stand.

    `proof_timeout_s` bounds one golden answer, `lease_s` is how often the replica renews
    its row in the state database. After `liveness_s` without an output the engine is asked for a
    token, and after `liveness_timeout_s` without one it is taken for hung and ended. A replica that
    holds nearly `memory_limit_gib` is replaced; null for no limit. `warm_worker`: each host of a replica
    keeps a process with vLLM imported, for the next replica (without a GPU only).
    """

    version: str
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    deployment_config: dict[str, Any] = Field(default_factory=dict)
    placement_group_config: dict[str, Any] | None = None
    accelerator_type: str | None = None
    runtime_env: dict[str, Any] = Field(default_factory=dict)
    proof_timeout_s: float = Field(default=60.0, gt=0)
    lease_s: float = Field(default=10.0, gt=0, le=30)
    liveness_s: float = Field(default=5.0, gt=0)
    liveness_timeout_s: float = Field(default=15.0, gt=0)
    memory_limit_gib: float | None = Field(default=None, gt=0)
    warm_worker: bool = True

    @field_validator("version")
    @classmethod
    def _exact(cls, value: str) -> str:
        parse_version_ref(value)
        return value

    @field_validator("engine_kwargs")
    @classmethod
    def _store_decides_the_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(_SET_BY_LINNET & value.keys())
        if taken:
            raise ValueError(f"`{taken[0]}` comes from the model store, leave it out")
        return value

    @field_validator("deployment_config")
    @classmethod
    def _something_stays(cls, value: dict[str, Any]) -> dict[str, Any]:
        scaling = value.get("autoscaling_config") or {}
        if isinstance(scaling, dict) and scaling.get("min_replicas", 1) == 0:
            raise ValueError("`min_replicas: 0` leaves nobody to notice the next request; 1 is the least")
        return value

    @property
    def ref(self) -> VersionRef:
        """The exact version."""
        return parse_version_ref(self.version)


def route_prefix(ref: VersionRef) -> str:
    """Where a version's application hangs; the gateway finds its replicas by this."""
    return f"/_versions/{ref.model}/{ref.version}"
