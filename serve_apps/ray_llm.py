"""The one place that touches what Ray Serve LLM 2.60 and vLLM 0.29 do not promise to keep.

`tests/serve_apps/test_ray_llm.py` says which versions this holds for.
"""

from __future__ import annotations

from typing import Any

HOLDS_FOR = {"ray": "2.60", "vllm": "0.29"}


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


def end_token_ids(engine: Any) -> frozenset[int]:
    """The ids at which this engine's model stops by itself."""
    client = engine._engine_client
    config = client.model_config.try_get_generation_config()
    ids = config.get("eos_token_id", client.model_config.hf_config.eos_token_id)
    return frozenset(ids if isinstance(ids, list) else [ids])


def engine_dtype(engine: Any) -> str:
    """The dtype that the engine computes in, as vLLM resolved it."""
    return str(engine._engine_client.model_config.dtype).removeprefix("torch.")


def stop_engine(engine: Any) -> None:
    """End the engine's processes now, rather than when the garbage collector comes by."""
    client = engine._engine_client
    if client is not None:
        client.shutdown()
