"""The one place that touches what Ray Serve LLM 2.60 and vLLM 0.29 do not promise to keep.

`tests/serve_apps/test_ray_llm.py` says which versions this holds for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Any

HOLDS_FOR = {"ray": "2.60", "vllm": "0.29"}

_STOPPING = "_linnet_stopping"


def deployment_options(fields: dict[str, Any]) -> dict[str, Any]:
    """What Ray Serve LLM makes of an LLMConfig's fields for `serve.deployment`."""
    from ray.llm._internal.common.dict_utils import maybe_apply_llm_deployment_config_defaults
    from ray.llm._internal.serve.core.server.builder import DEFAULT_DEPLOYMENT_OPTIONS
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    options = LLMServer.get_deployment_options(LLMConfig(**fields))
    return maybe_apply_llm_deployment_config_defaults(DEFAULT_DEPLOYMENT_OPTIONS, options)


def lean_engine_class() -> type:
    """Ray's engine class without what a replica over a local directory need not do at its start.

    Ray runs a task of its own on each node, which imports all of vLLM to download nothing. On a
    CPU, vLLM makes two processes; here one is forked ready (see `engine_fork`) and computes in
    itself. vLLM turns "uni" into "mp" on a CPU for its OpenMP settings, hence the late change.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
    from vllm.platforms import current_platform

    class LeanEngine(VLLMEngine):
        async def start(self) -> None:
            self.llm_config.get_or_create_callback().ctx.run_init_node = False
            await super().start()

        def _start_async_llm_engine(self, engine_args: Any, config: Any, placement_group: Any) -> Any:
            parallel = config.parallel_config
            if current_platform.is_cpu() and parallel.world_size_across_dp == 1:
                parallel.distributed_executor_backend = "uni"
                _fork_engines()
            return super()._start_async_llm_engine(engine_args, config, placement_group)

    return LeanEngine


def _fork_engines() -> None:
    from vllm.v1.engine import utils

    from serve_apps import engine_fork

    utils.get_mp_context = engine_fork.context


def serve_under_names(app: Any, names: list[str]) -> None:
    """Let a vLLM ASGI app answer to more model names than Ray's LLMConfig can say.

    Ray passes exactly one served name to vLLM; vLLM itself takes a list.
    """
    from vllm.entrypoints.openai.models.protocol import BaseModelPath

    serving = app.state.openai_serving_models
    known = {path.name for path in serving.base_model_paths}
    model_path = serving.base_model_paths[0].model_path
    serving.base_model_paths.extend(
        BaseModelPath(name=name, model_path=model_path) for name in names if name not in known
    )


def add_middleware(app: Any, middleware: type, **options: Any) -> None:
    """Add one to a vLLM ASGI app, which has built its stack already: it is built anew."""
    app.middleware_stack = None
    app.add_middleware(middleware, **options)


def tell_tokens(engine: Any) -> None:
    """Let the engine tell and continue its streams."""
    from serve_apps.replay import vllm_hooks

    vllm_hooks.hook(engine._engine_client)


def on_engine_exit(engine: Any, callback: Callable[[], None]) -> None:
    """Call `callback` in a thread, at once, when an engine process ends that was not asked to.

    vLLM's own monitor only marks the engine as dead, which shows with the next request.
    """
    sentinels = engine._engine_client.engine_core.resources.engine_manager.sentinels()

    def watch() -> None:
        wait(sentinels)
        if not getattr(engine, _STOPPING, False):
            callback()

    threading.Thread(target=watch, daemon=True, name="linnet-engine-exit").start()


def feel_pulse(engine: Any, beat: Callable[[], None]) -> None:
    """Call `beat` whenever the engine core has put something out."""
    processor = engine._engine_client.output_processor
    original = processor.process_outputs

    def process_outputs(*arguments: Any, **options: Any) -> Any:
        beat()
        return original(*arguments, **options)

    processor.process_outputs = process_outputs


def ongoing_requests(engine: Any) -> int:
    """Requests that the engine has and has not finished."""
    return int(engine._engine_client.output_processor.get_num_unfinished_requests())


def read_stats(engine: Any, record: Callable[[Any, Any], None]) -> None:
    """Call `record` with the scheduler's and the iteration's statistics of each step."""
    manager = engine._engine_client.logger_manager
    if manager is None:
        return
    original = manager.record

    def recording(scheduler_stats: Any, iteration_stats: Any, *arguments: Any, **options: Any) -> None:
        record(scheduler_stats, iteration_stats)
        original(scheduler_stats, iteration_stats, *arguments, **options)

    manager.record = recording


def kill_engine(engine: Any) -> None:
    """End the engine's processes by force, a stopped one too; `on_engine_exit` then says so."""
    for process in engine._engine_client.engine_core.resources.engine_manager.processes:
        process.kill()


def end_token_ids(engine: Any) -> frozenset[int]:
    """The ids at which this engine's model stops by itself."""
    client = engine._engine_client
    config = client.model_config.try_get_generation_config()
    ids = config.get("eos_token_id", client.model_config.hf_config.eos_token_id)
    return frozenset(ids if isinstance(ids, list) else [ids])


def engine_dtype(engine: Any) -> str:
    """The dtype that the engine computes in, as vLLM resolved it."""
    return str(engine._engine_client.model_config.dtype).removeprefix("torch.")


def most_replicas(context: Any) -> int | None:
    """How many replicas Serve may run of a replica's deployment, by its context; None for a fixed number."""
    scaling = context._deployment_config.autoscaling_config
    return None if scaling is None else int(scaling.max_replicas)


def stop_engine(engine: Any) -> None:
    """End the engine's processes now, rather than when the garbage collector comes by."""
    setattr(engine, _STOPPING, True)
    client = engine._engine_client
    if client is not None:
        client.shutdown()
