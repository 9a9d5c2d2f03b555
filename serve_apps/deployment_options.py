"""From the fields of an LLMConfig to the options of a Serve deployment.

Ray's own function for it imports torch and vLLM. Where there is no GPU and every bundle is
written out, the same options follow without; a test holds the two equal. Elsewhere it is Ray's.
"""

from __future__ import annotations

import copy
from typing import Any

import ray

# Ray's defaults: the engine's own queue bounds a replica, not Serve.
_UNBOUNDED = int(1e9)
_DEFAULTS = {"max_ongoing_requests": _UNBOUNDED, "health_check_period_s": 10, "health_check_timeout_s": 10}


def deployment_options(fields: dict[str, Any], *, on_cpu: bool) -> dict[str, Any]:
    """Options for `serve.deployment`, without a name."""
    if not on_cpu or "bundles" not in fields["placement_group_config"]:
        from serve_apps import ray_llm

        return ray_llm.deployment_options(fields)
    return _on_cpu(fields)


def _on_cpu(fields: dict[str, Any]) -> dict[str, Any]:
    options = {**_DEFAULTS, **copy.deepcopy(fields["deployment_config"])}
    actor = options.setdefault("ray_actor_options", {})
    placement = fields["placement_group_config"]
    options["placement_group_bundles"] = _with_actor(placement["bundles"], actor)
    options["placement_group_strategy"] = placement.get("strategy", "PACK")
    surrounding = ray.get_runtime_context().runtime_env
    actor["runtime_env"] = {**surrounding, **actor.get("runtime_env", {}), **fields["runtime_env"]}
    return options


def _with_actor(bundles: list[dict[str, float]], actor: dict[str, Any]) -> list[dict[str, float]]:
    """The replica's actor lives in the first bundle, beside the first of the engine's processes."""
    own = {"CPU": actor.get("num_cpus", 1), "GPU": actor.get("num_gpus", 0), **actor.get("resources", {})}
    if "memory" in actor:
        own["memory"] = actor["memory"]
    if not bundles:
        return [own]
    first, *others = bundles
    return [{name: first.get(name, 0) + own.get(name, 0) for name in {**first, **own}}, *map(dict, others)]
