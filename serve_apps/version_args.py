"""What a version's application takes as `args` in the `serve deploy` YAML.

The shape is that of Ray Serve LLM's `LLMConfig`; `version` replaces `model_loading_config`,
because the weights come from the model store alone (rule 9).
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel
from cluster.refs import VersionRef, parse_version_ref

_SET_BY_LINNET = {"model", "served_model_name", "tokenizer"}


class VersionArgs(StrictModel):
    """One version to serve, `engine_kwargs` passed to vLLM as they stand.

    `proof_timeout_s` bounds one golden answer, `lease_s` is how often the replica renews
    its row in the state database. After `liveness_s` without an output the engine is asked for a
    token, and after `liveness_timeout_s` without one it is taken for hung and ended. A replica that
    holds nearly `memory_limit_gib` is replaced; null for no limit. `warm_worker`: each host of a replica
    keeps a process with vLLM imported, for the next replica (without a GPU only). `standby` replicas run
    beside `num_replicas`, proven, and get requests only in the place of one that is lost.
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
    standby: int = Field(default=0, ge=0)

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

    @model_validator(mode="after")
    def _stands_by_a_fixed_number(self) -> Self:
        if self.standby and not isinstance(self.deployment_config.get("num_replicas", 1), int):
            raise ValueError("`standby` needs `num_replicas` to be a number")
        if self.standby and self.deployment_config.get("autoscaling_config") is not None:
            raise ValueError(
                "`standby` needs a fixed `num_replicas`; with `autoscaling_config` leave it out and raise "
                "`min_replicas`, since a spare replica there takes its share of the load"
            )
        return self

    @property
    def ref(self) -> VersionRef:
        """The exact version."""
        return parse_version_ref(self.version)


def deployment_name(model: str, version: str) -> str:
    """The name of the one deployment in a version's application."""
    return f"{model}-{version}"


def route_prefix(ref: VersionRef) -> str:
    """Where a version's application hangs; the gateway finds its replicas by this."""
    return f"/_versions/{ref.model}/{ref.version}"
