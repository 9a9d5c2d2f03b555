"""What Serve deploys for a version: a class that imports vLLM in the replica alone.

Serve builds an application in a task of its own, which would import all of torch and vLLM for
nothing but the name of a class; a deploy would begin with those seconds.
"""

from __future__ import annotations

from typing import Any

from serve_apps import warm_worker
from serve_apps.version_args import VersionArgs


class VersionReplica:
    """Hands everything to a `VersionServer`, which it makes in its constructor."""

    _server: Any = None

    async def __init__(self, args: VersionArgs, llm_config_fields: dict[str, Any]) -> None:
        warm_worker.taken()
        from ray.serve.llm import LLMConfig

        from serve_apps.engine import VersionServer

        # Ray's LLM servers are started by an `async def __init__`, which Serve awaits.
        self._server = VersionServer.__new__(VersionServer)
        await self._server.__init__(LLMConfig(**llm_config_fields), args=args)

    async def __serve_build_asgi_app__(self) -> Any:
        """Serve's hook: the application to answer with."""
        return await self._server.__serve_build_asgi_app__()

    async def wake(self) -> None:
        """What a gateway calls by a handle where a version has no replica: Serve scales by that call."""

    async def reconfigure(self, user_config: Any) -> None:
        """Serve's hook for `user_config`, which names the adapters."""
        await self._server.reconfigure(user_config)

    async def check_health(self) -> None:
        """Serve's health check; raises when the engine is dead."""
        await self._server.check_health()

    async def record_routing_stats(self) -> dict[str, Any]:
        """Serve's hook for what a request router may want to know."""
        return await self._server.record_routing_stats()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: what its autoscaling policies get to see."""
        return await self._server.record_autoscaling_stats()

    async def __del__(self) -> None:
        """Serve's hook at the end of a graceful stop, and of a constructor that failed before its server."""
        if self._server is not None:
            await self._server.__del__()
