"""From a version's `args` to its Serve application, with defaults that fit the hardware."""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from ray.serve.deployment import Application

from serve_apps import scaling, warm_worker
from serve_apps.deployment_options import deployment_options
from serve_apps.replica import VersionReplica
from serve_apps.serve_settings import ONE_LOOP
from serve_apps.version_args import VersionArgs, deployment_name

# What counts is Serve's other limit, three for each replica: it takes replicas that were lost while its
# controller was away for ones that failed to start, and a host may have held any number of them.
_CONSTRUCTOR_TRIES = 1000
# Serve learns of a replica's end by its next health check, and starts another only then.
_HEALTH_CHECK_PERIOD_S = 1.0

# The gateway decides what is traced; else vLLM would trace golden answers and signs of life too.
_TRACED = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "linnet-replica"}

# vLLM's own default of `max_num_seqs`, and the share of it that a replica is to have on average.
_SEQUENCES = 256
_FULL = 0.7

# vLLM's own default is 1, with which one busy adapter keeps all others waiting.
_MAX_LORAS = 4


def build(args: VersionArgs) -> Application:
    """The application of one version."""
    fields = llm_config_fields(args)
    options = deployment_options(fields, on_cpu=_is_on_cpu(args))
    options["name"] = deployment_name(args.ref.model, args.ref.version)
    # Without it Serve would not call `reconfigure` when the YAML's own is taken out again.
    options.setdefault("user_config", {})
    return serve.deployment(serve.ingress()(VersionReplica), **options).bind(args, fields)


def llm_config_fields(args: VersionArgs) -> dict[str, Any]:
    """Fields of Ray's LLMConfig; without a GPU in the bundles, the CPU defaults apply.

    On CPU the dtype is float32: bfloat16 gives other text with the CPU build of vLLM 0.29.
    """
    on_cpu = _is_on_cpu(args)
    engine_kwargs = dict(args.engine_kwargs)
    runtime_env = {**args.runtime_env, "env_vars": dict(args.runtime_env.get("env_vars", {}))}
    deployment_config = {
        "max_constructor_retry_count": _CONSTRUCTOR_TRIES,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        **args.deployment_config,
    }
    if "autoscaling_config" in deployment_config:
        # One that may sleep proves itself at the deploy all the same, so that a bad version shows then.
        deployment_config["autoscaling_config"] = {
            **_awake_at_first(deployment_config["autoscaling_config"]),
            "policy": {"policy_function": scaling.POLICY},
            "target_ongoing_requests": max(1, int(_FULL * engine_kwargs.get("max_num_seqs", _SEQUENCES))),
            **deployment_config["autoscaling_config"],
        }
    else:
        deployment_config.setdefault("num_replicas", 1)
        if args.standby:
            deployment_config["num_replicas"] += args.standby
    traced = _TRACED if engine_kwargs.get("otlp_traces_endpoint") is not None else {}
    for name, value in {"HF_HUB_OFFLINE": "1", **ONE_LOOP, **traced}.items():
        runtime_env["env_vars"].setdefault(name, value)
    if engine_kwargs.get("enable_lora"):
        engine_kwargs.setdefault("max_loras", _MAX_LORAS)
    placement = args.placement_group_config
    if on_cpu:
        engine_kwargs.setdefault("dtype", "float32")
        runtime_env["env_vars"].setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        for name, value in warm_worker.variables(runtime_env).items():
            runtime_env["env_vars"].setdefault(name, value)
        placement = placement or {"bundles": [{"CPU": 1}]}
    return {
        "model_loading_config": {"model_id": args.ref.model, "model_source": os.devnull},
        "engine_kwargs": engine_kwargs,
        "deployment_config": deployment_config,
        "placement_group_config": placement,
        "accelerator_type": args.accelerator_type,
        "runtime_env": runtime_env,
    }


def _awake_at_first(scaling: dict[str, Any]) -> dict[str, int]:
    return {"initial_replicas": 1} if scaling.get("min_replicas") == 0 else {}


def _is_on_cpu(args: VersionArgs) -> bool:
    return args.accelerator_type is None and not _asks_for_gpu(args.placement_group_config)


def _asks_for_gpu(placement: dict[str, Any] | None) -> bool:
    if placement is None:
        return False
    bundles = [*placement.get("bundles", []), placement.get("bundle_per_worker", {})]
    return any(bundle.get("GPU", 0) for bundle in bundles)
