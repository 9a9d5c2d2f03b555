"""The plain side: ray.serve.llm as its documentation starts it, two replicas, nothing of Linnet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_endpoint(model: Path, replicas: int, cpus: float) -> Iterator[tuple[str, str]]:
    """Yields the address of its OpenAI API and the one of its dashboard; ends its Ray with the block."""
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app
    from serving import MODEL, free_port

    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    context = ray.init(address="local", num_cpus=cpus, log_to_driver=False, configure_logging=False)
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        config = LLMConfig(
            model_loading_config={"model_id": MODEL, "model_source": str(model)},
            engine_kwargs={
                "dtype": "float32",
                "max_model_len": 256,
                "max_num_seqs": 16,
                "enforce_eager": True,
            },
            deployment_config={"num_replicas": replicas},
            placement_group_config={"bundles": [{"CPU": 1}]},
            runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}},
        )
        serve.run(build_openai_app({"llm_configs": [config]}), name="plain", blocking=False)
        yield f"http://127.0.0.1:{port}", f"http://{context.dashboard_url}"
    finally:
        serve.shutdown()
        ray.shutdown()
