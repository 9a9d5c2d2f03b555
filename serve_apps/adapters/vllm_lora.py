"""The one place where adapters touch what vLLM 0.29 and Ray Serve LLM 2.60 do not promise to keep.

`tests/serve_apps/adapters/test_vllm_lora.py` says which version this holds for and runs it against
a real engine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.lora.request import LoRARequest

from cluster.errors import GateFailedError
from cluster.refs import VersionRef
from serve_apps.adapters.middleware import current

HOLDS_FOR = "0.29"


class LoraEngine:
    """An engine's adapters; `client` is vLLM's, `models` what its routes look model names up in."""

    def __init__(self, client: Any, models: Any) -> None:
        self._client = client
        self._models = models
        _answer_by_adapter(client)
        # An answer names its model as callers do, whichever version gave it.
        name = models.base_model_paths[0].name
        models.model_name = lambda lora_request=None: name

    @property
    def has_lora(self) -> bool:
        """Whether the engine was started with `enable_lora`."""
        return self._client.vllm_config.lora_config is not None

    async def load(self, ref: VersionRef, directory: Path) -> LoRARequest:
        """Load an adapter, which then also answers to `model:version` in a body.

        Raises GateFailedError with vLLM's reason: a rank above `max_lora_rank`, modules it does not know.
        """
        request = LoadLoRAAdapterRequest(lora_name=str(ref), lora_path=str(directory))
        outcome = await self._models.load_lora_adapter(request)
        if isinstance(outcome, ErrorResponse):
            raise GateFailedError(
                f"The engine did not load `{ref}`: {outcome.error.message}", code="adapters.not_loaded"
            )
        loaded: LoRARequest = self._models.lora_requests[str(ref)]
        return loaded

    async def unload(self, handle: LoRARequest) -> None:
        """Take its name and its weights away."""
        await self._models.unload_lora_adapter(UnloadLoRAAdapterRequest(lora_name=handle.lora_name))
        await self._client.remove_lora(handle.lora_int_id)

    def in_flight(self, handle: LoRARequest) -> int:
        """Requests of the engine that the adapter answers."""
        states = self._client.output_processor.request_states.values()
        return sum(state.lora_name == handle.lora_name for state in states)


def of_ray(engine: Any) -> LoraEngine:
    """From Ray Serve LLM's engine, once it has started."""
    return LoraEngine(engine._engine_client, engine._oai_models)


def _answer_by_adapter(client: Any) -> None:
    """Let the adapter of the request that is being handled answer, on every route.

    All of them come to the engine by these two methods, which vLLM looks up on each request.
    """
    for name in ("generate", "encode"):
        setattr(client, name, _by_adapter(getattr(client, name)))


def _by_adapter(original: Any) -> Any:
    def method(*arguments: Any, **options: Any) -> Any:
        adapter = current.get()
        if adapter is not None:
            options["lora_request"] = adapter
        return original(*arguments, **options)

    return method
