"""A replica of one version: Ray Serve LLM's server, which proves itself before it takes traffic."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import Any

import grpc
from ray import serve
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from cluster.errors import GateFailedError, LinnetError
from cluster.manifest import GoldenAnswer
from cluster.registry import ModelStore
from cluster.state import losses, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import utc_now
from serve_apps import backoff, ray_llm, warm_worker
from serve_apps.counting import CountRequests
from serve_apps.engine_load import EngineLoad
from serve_apps.liveness import Pulse, hung
from serve_apps.memory import MemoryGuard
from serve_apps.proving import prove
from serve_apps.replay.middleware import TellTokens
from serve_apps.version_args import VersionArgs

logger = logging.getLogger("ray.serve")


class VersionServer(LLMServer):
    """Serves one version: verify the files, load, prove, warm up, and only then be ready.

    Serve calls a replica RUNNING once its constructor returns, so nothing routes to one
    that has not come through all of it.
    """

    async def __init__(self, llm_config: LLMConfig, *, args: VersionArgs) -> None:
        self._args = args
        self._store = await asyncio.to_thread(ModelStore.open)
        self._replica = serve.get_replica_context().replica_id.to_full_id_str()
        self._tasks: list[asyncio.Task[None]] = []
        self._probes = 0
        limit = args.memory_limit_gib
        self._memory = MemoryGuard(os.getpid(), limit) if limit is not None else None
        pause_s = await self._back_off()
        began = time.monotonic()
        try:
            await self._report(ReplicaStatus.LOADING, {})
            directory = await asyncio.to_thread(self._store.local_dir, args.ref)
            source = _with_source(llm_config, str(directory))
            await super().__init__(source, engine_cls=ray_llm.lean_engine_class())
            ray_llm.tell_tokens(self.engine)
            ray_llm.on_engine_exit(self.engine, _end_with_engine)
            self._load = EngineLoad(self._ongoing)
            ray_llm.read_stats(self.engine, self._load.record)
            loaded = time.monotonic()
            await self._report(ReplicaStatus.PROVING)
            proven = await self._prove()
        except Exception as error:
            await self._report(ReplicaStatus.REFUSED, {"reason": _sentence(error)})
            if self.engine is not None:
                ray_llm.stop_engine(self.engine)
            raise
        took = {"load_s": round(loaded - began, 2), "prove_s": round(time.monotonic() - loaded, 2)}
        told = {"proven": proven, "standby": args.standby, "pause_s": pause_s}
        await self._report(ReplicaStatus.SERVING, told | took)
        self._tasks = [asyncio.create_task(self._renew()), asyncio.create_task(self._stay_alive())]

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's own FastAPI app, answering to `model` and to `model:version`, telling its tokens."""
        app = await super().__serve_build_asgi_app__()
        ray_llm.serve_under_names(app, [self._args.ref.model, str(self._args.ref)])
        ray_llm.add_middleware(app, TellTokens)
        ray_llm.add_middleware(app, CountRequests, count=self._load.asked)
        return app

    async def check_health(self) -> None:
        """Serve's health check; raises when the engine is dead, or the replica near its memory limit."""
        await super().check_health()
        if self._memory is not None:
            await self._memory.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's hook: what its autoscaling policies get to see."""
        return self._load.stats()

    async def __del__(self) -> None:
        """Serve's hook at the end of a graceful stop: give back the lease and the engine."""
        await super().__del__()
        if self.engine is not None:
            ray_llm.stop_engine(self.engine)
        if not self._tasks:
            return  # it never served, and its refusal stays to be read
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(LinnetError):
            await asyncio.to_thread(self._forget)

    async def _start_engine(self) -> None:
        """As Ray's, without its usage telemetry: an actor for it would import all of vLLM."""
        await self.engine.start()

    async def _back_off(self) -> float:
        """Wait, where the replicas before this one were lost in a storm; returns the seconds."""
        pause = await asyncio.to_thread(self._pause)
        began = time.monotonic()
        while pause is not None and (left_s := (pause.until - utc_now()).total_seconds()) > 0:
            detail = {"reason": pause.reason, "until": pause.until.isoformat()}
            await self._report(ReplicaStatus.BACKING_OFF, detail)
            await asyncio.sleep(min(left_s, self._args.lease_s))
        return round(time.monotonic() - began, 2)

    def _pause(self) -> backoff.Pause | None:
        ref, now = self._args.ref, utc_now()
        with self._store.database.snapshot() as session:
            lives = losses.lives(session, ref.model, ref.version, now - backoff.WINDOW)
        return backoff.pause(lives, now)

    async def _prove(self) -> int:
        manifest = await asyncio.to_thread(self._store.manifest, self._args.ref)
        return await prove(
            manifest,
            self._generate,
            end_ids=ray_llm.end_token_ids(self.engine),
            setting=ray_llm.engine_dtype(self.engine),
        )

    async def _generate(self, golden: GoldenAnswer) -> tuple[list[int], str]:
        from ray.serve.llm.openai_api_models import CompletionRequest

        request = CompletionRequest(
            model=self._args.ref.model,
            prompt=golden.prompt_token_ids,
            max_tokens=golden.max_tokens,
            temperature=0.0,
            return_token_ids=True,
        )
        answers = await self.completions(request)
        response = await asyncio.wait_for(anext(answers), self._args.proof_timeout_s)
        if not hasattr(response, "choices"):
            raise GateFailedError(
                f"The engine of `{self._args.ref}` answered a golden prompt with an error: {response}.",
                code="gate.engine_error",
            )
        choice = response.choices[0]
        return list(choice.token_ids or []), choice.text

    async def _renew(self) -> None:
        while True:
            await self._keep_warm_worker()
            await asyncio.sleep(self._args.lease_s)
            try:
                await self._report(ReplicaStatus.SERVING)
            except LinnetError as error:
                logger.warning("The lease of %s was not renewed: %s", self._replica, error.message)

    async def _keep_warm_worker(self) -> None:
        if not self._args.warm_worker:
            return
        try:
            await asyncio.to_thread(warm_worker.keep_one)
        except (OSError, grpc.RpcError) as error:
            logger.warning("No warm worker could be had: %s", error)

    async def _stay_alive(self) -> None:
        pulse = Pulse()
        ray_llm.feel_pulse(self.engine, pulse.beat)
        wrong = await hung(pulse, self._one_token, self._args.liveness_s, self._args.liveness_timeout_s)
        logger.error("The engine of %s is ended: %s.", self._replica, wrong)
        ray_llm.kill_engine(self.engine)

    async def _one_token(self) -> None:
        from ray.serve.llm.openai_api_models import CompletionRequest

        request = CompletionRequest(model=self._args.ref.model, prompt=[0], max_tokens=1, temperature=0.0)
        self._probes += 1
        try:
            await anext(await self.completions(request))
        finally:
            self._probes -= 1

    def _ongoing(self) -> int:
        """Requests of callers alone: asking an idle engine whether it lives must not keep it awake."""
        return max(0, ray_llm.ongoing_requests(self.engine) - self._probes)

    async def _report(self, status: ReplicaStatus, detail: dict[str, Any] | None = None) -> None:
        await asyncio.to_thread(self._write, status, detail)

    def _write(self, status: ReplicaStatus, detail: dict[str, Any] | None) -> None:
        with self._store.database.transaction() as session:
            replicas.report(
                session,
                replica=self._replica,
                model=self._args.ref.model,
                version=self._args.ref.version,
                status=status,
                detail=detail,
            )

    def _forget(self) -> None:
        with self._store.database.transaction() as session:
            replicas.forget(session, self._replica)


def _end_with_engine() -> None:
    """A replica without its engine answers nothing: ending it closes its connections at once.

    Its callers are then answered elsewhere, and Serve replaces it, sooner than by a health check.
    """
    logger.error("The engine process is gone; the replica ends with it.")
    os._exit(1)


def _with_source(llm_config: LLMConfig, directory: str) -> LLMConfig:
    fields = llm_config.model_dump(exclude_unset=True)
    fields["model_loading_config"] = {"model_id": llm_config.model_id, "model_source": directory}
    return LLMConfig(**fields)


def _sentence(error: Exception) -> str:
    return error.message if isinstance(error, LinnetError) else f"{type(error).__name__}: {error}"
