import subprocess
import sys
from types import SimpleNamespace

import pytest

from serve_apps import ray_llm
from serve_apps.deployment_options import deployment_options
from serve_apps.engine_deployment import llm_config_fields
from serve_apps.version_args import VersionArgs


@pytest.fixture(autouse=True)
def within_a_task_of_serve(monkeypatch):
    """Where Serve builds applications Ray runs; asked for elsewhere, its context would start one."""
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(runtime_env={"env_vars": {}}))


ASKED = [
    {},
    {"deployment_config": {"num_replicas": 3}},
    {"deployment_config": {"autoscaling_config": {"min_replicas": 1, "max_replicas": 4}}},
    {"deployment_config": {"autoscaling_config": {"target_ongoing_requests": 5}, "max_ongoing_requests": 9}},
    {"deployment_config": {"ray_actor_options": {"num_cpus": 2, "memory": 10, "resources": {"disk": 1}}}},
    {"placement_group_config": {"bundles": [{"CPU": 2}, {"CPU": 1}], "strategy": "STRICT_PACK"}},
    {"runtime_env": {"env_vars": {"A": "1"}}},
    {"engine_kwargs": {"otlp_traces_endpoint": "http://collector:4317"}},
]


@pytest.mark.parametrize("asked", ASKED)
def test_the_options_without_vllm_are_those_of_ray(asked):
    fields = llm_config_fields(VersionArgs(version="m:v1", **asked))
    ours, theirs = deployment_options(fields, on_cpu=True), ray_llm.deployment_options(fields)
    # A hook that does nothing; Ray takes it for whole jobs only.
    theirs["ray_actor_options"]["runtime_env"].pop("worker_process_setup_hook", None)
    assert ours == theirs


def test_only_a_version_that_sends_traces_is_told_to_leave_the_choice_to_the_gateway():
    def variables(**given):
        return llm_config_fields(VersionArgs(version="m:v1", **given))["runtime_env"]["env_vars"]

    endpoint = {"otlp_traces_endpoint": "http://collector:4317"}
    assert variables(engine_kwargs=endpoint)["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"
    assert not any(name.startswith("OTEL_") for name in variables())
    own = {"env_vars": {"OTEL_TRACES_SAMPLER": "always_on"}}
    assert variables(engine_kwargs=endpoint, runtime_env=own)["OTEL_TRACES_SAMPLER"] == "always_on"


def test_bundles_for_each_worker_and_gpus_are_left_to_ray():
    per_worker = VersionArgs(version="m:v1", placement_group_config={"bundle_per_worker": {"CPU": 2}})
    options = deployment_options(llm_config_fields(per_worker), on_cpu=True)
    assert options["placement_group_bundles"] == [{"CPU": 3, "GPU": 0}]
    gpu = VersionArgs(version="m:v1", accelerator_type="H100")
    assert "GPU" in deployment_options(llm_config_fields(gpu), on_cpu=False)["placement_group_bundles"][0]


def test_a_deploy_on_cpus_imports_no_vllm():
    program = (
        "import sys, types, ray\n"
        "ray.get_runtime_context = lambda: types.SimpleNamespace(runtime_env={})\n"
        "from serve_apps.engine_deployment import build\n"
        "from serve_apps.version_args import VersionArgs\n"
        "build(VersionArgs(version='m:v1'))\n"
        "print([name for name in ('torch', 'vllm', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
