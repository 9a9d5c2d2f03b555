"""A replica of one version: Ray Serve LLM's server, which proves itself before it takes traffic."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import grpc
from ray import serve
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from cluster.errors import GateFailedError, LinnetError
from cluster.manifest import GoldenAnswer, VersionManifest
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.state import losses
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import utc_now
from serve_apps import backoff, memory, ray_llm, tried_already, tripped_validators, warm_worker
from serve_apps.adapters import vllm_lora
from serve_apps.adapters.adapters import Adapters, sentence
from serve_apps.adapters.fitting import require_fit
from serve_apps.adapters.middleware import AnswerAsVersion, current
from serve_apps.adapters.spec import read_adapters
from serve_apps.counting import CountRequests
from serve_apps.engine_load import EngineLoad
from serve_apps.gateway import replica_key
from serve_apps.liveness import Pulse, hung
from serve_apps.proving import prove
from serve_apps.replay.middleware import TellTokens
from serve_apps.replica_door import GatewayOnly
from serve_apps.replica_rows import NOT_WRITTEN, ReplicaRows
from serve_apps.rollout import beside, keeping
from serve_apps.version_args import VersionArgs

logger = logging.getLogger("ray.serve")

ADAPTERS_WAIT_S = 120.0
"""How long a new replica waits for its adapters before it answers; the rest comes while it serves."""


class VersionServer(LLMServer):
    """Serves one version: verify the files, load, prove, warm up, and only then be ready.

    Serve calls a replica RUNNING once its constructor and its first `reconfigure` have returned, so
    nothing routes to one that has not come through all of it. Adapters on top of the version are
    versions of their own, which come and go while it serves.
    """

    async def __init__(self, llm_config: LLMConfig, *, args: VersionArgs) -> None:
        self._args = args
        self._store = await asyncio.to_thread(ModelStore.open)
        replica = serve.get_replica_context().replica_id.to_full_id_str()
        self._rows = ReplicaRows(self._store.database, replica, args.ref)
        self._configured = False
        self._tasks: list[asyncio.Task[None]] = []
        self._probes = 0
        limit = args.memory_limit_gib
        self._memory = memory.MemoryGuard(os.getpid(), limit) if limit is not None else None
        await asyncio.to_thread(self._require_untried)
        pause_s = await self._back_off()
        began = time.monotonic()
        try:
            await self._report(ReplicaStatus.LOADING, {})
            directory = await asyncio.to_thread(self._store.local_dir, args.ref)
            source = _with_source(llm_config, str(directory))
            await super().__init__(source, engine_cls=ray_llm.lean_engine_class())
            ray_llm.tell_tokens(self.engine)
            self._lora = vllm_lora.of_ray(self.engine)
            self._adapters = Adapters(self._lora, self._fetch_adapter, self._prove_adapter, self._rows)
            ray_llm.on_engine_exit(self.engine, _end_with_engine)
            self._load = EngineLoad(self._ongoing)
            ray_llm.read_stats(self.engine, self._load.record)
            loaded = time.monotonic()
            await self._report(ReplicaStatus.PROVING)
            proven = await self._prove(await asyncio.to_thread(self._store.manifest, args.ref))
        except Exception as error:
            await self._report(ReplicaStatus.REFUSED, {"reason": sentence(error)})
            if self.engine is not None:
                ray_llm.stop_engine(self.engine)
            raise
        took = {"load_s": round(loaded - began, 2), "prove_s": round(time.monotonic() - loaded, 2)}
        most = ray_llm.most_replicas(serve.get_replica_context())
        self._proof = {
            "proven": proven,
            "standby": args.standby,
            beside.MOST: most,
            "pause_s": pause_s,
            **took,
        }
        await self._report(ReplicaStatus.SERVING, self._proof)
        self._tasks = [asyncio.create_task(self._renew()), asyncio.create_task(self._stay_alive())]

    async def __serve_build_asgi_app__(self) -> Any:
        """vLLM's own FastAPI app, answering to `model` and to `model:version`, telling its tokens."""
        app = await super().__serve_build_asgi_app__()
        ray_llm.serve_under_names(app, [self._args.ref.model, str(self._args.ref)])
        tripped_validators.refuse_bodies(app)
        ray_llm.add_middleware(app, TellTokens)
        ray_llm.add_middleware(app, CountRequests, count=self._load.asked)
        ray_llm.add_middleware(
            app,
            AnswerAsVersion,
            own=self._args.ref.version,
            find=self._adapters.find,
            answering=self._adapters.answering,
        )
        ray_llm.add_middleware(app, GatewayOnly, key=os.environ.get(replica_key.VARIABLE))
        return app

    async def reconfigure(self, user_config: Any) -> None:
        """Serve's hook: called before the replica is RUNNING, and for each new `user_config`.

        Serve stops a replica whose hook raises, so this does not. It waits for the adapters the
        first time, for a replica that takes the place of another is to serve what that one did, but
        not for ever: the base is to be served too. Later ones come while the replica answers.
        """
        try:
            await self._reconfigure(user_config)
        except Exception:
            logger.exception("The user_config of %s was not followed.", self._args.ref)

    async def _reconfigure(self, user_config: Any) -> None:
        first, self._configured = not self._configured, True
        try:
            self._adapters.want(read_adapters(user_config, self._args.ref))
        except LinnetError as error:
            logger.error("The user_config of %s is refused: %s", self._args.ref, error.render())
            await self._tell(self._proof | {"user_config": error.message})
            return
        if first:
            await self._wait_for_adapters()
        await self._tell(self._proof)

    async def _wait_for_adapters(self) -> None:
        try:
            await asyncio.wait_for(self._adapters.settled(), ADAPTERS_WAIT_S)
        except TimeoutError:
            logger.warning(
                "%s serves without some of its adapters, which were not there within %g s.",
                self._rows.replica,
                ADAPTERS_WAIT_S,
            )

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
        self._adapters.close()
        with contextlib.suppress(*NOT_WRITTEN):
            await self._rows.forget_all()

    async def _start_engine(self) -> None:
        """As Ray's, without its usage telemetry: an actor for it would import all of vLLM."""
        await self.engine.start()

    def _require_untried(self) -> None:
        now, application = utc_now(), serve.get_replica_context().app_name
        with self._store.database.snapshot() as session:
            refusal = tried_already.refused_lately(session, self._args.ref, now)
        if refusal is not None and refusal.seen_at > tried_already.deployed_at(application):
            raise tried_already.again(self._args.ref, refusal, now)

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

    def _fetch_adapter(self, ref: VersionRef) -> tuple[VersionManifest, Path]:
        manifest = self._store.manifest(ref)
        require_fit(manifest, self._store.manifest(self._args.ref), has_lora=self._lora.has_lora)
        return manifest, self._store.local_dir(ref)

    async def _prove_adapter(self, manifest: VersionManifest, adapter: Any) -> int:
        token = current.set(adapter)
        try:
            return await self._prove(manifest)
        finally:
            current.reset(token)

    async def _prove(self, manifest: VersionManifest) -> int:
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
        limit_s = self._args.proof_timeout_s
        try:
            response = await asyncio.wait_for(anext(answers), limit_s)
        except TimeoutError:
            raise GateFailedError(
                f"The engine of `{self._args.ref}` gave no answer to a golden prompt within {limit_s:g} s.",
                code="gate.proof_timeout",
                hint="Raise `proof_timeout_s`; for an adapter `max_loras`: so many answer at a time.",
                retryable=True,
            ) from None
        if not hasattr(response, "choices"):
            raise GateFailedError(
                f"The engine of `{self._args.ref}` answered a golden prompt with an error: {response}.",
                code="gate.engine_error",
            )
        choice = response.choices[0]
        return list(choice.token_ids or []), choice.text

    def _keep(self) -> None:
        """Take over what rollouts want of the version."""
        model, version = self._args.ref.model, self._args.ref.version
        with self._store.database.snapshot() as session:
            now = utc_now()
            self._load.kept = keeping.is_kept(session, model, version, now)
            self._load.needed = max(
                keeping.needed(session, model, version, now), beside.needed(session, model, version)
            )
            self._load.reserved = self._rows.replica in beside.reserved(session, model, version)

    async def _renew(self) -> None:
        while True:
            try:
                held = await memory.told(os.getpid())
                await self._adapters.renew({self._args.ref.version: ReplicaStatus.SERVING}, held)
                self._adapters.retry()
                await asyncio.to_thread(self._keep)
                await self._keep_warm_worker()
            except Exception:
                # Without this loop the replica would be taken for lost.
                logger.exception("A renewal of %s went wrong; the next one follows.", self._rows.replica)
            await asyncio.sleep(self._args.lease_s)

    async def _tell(self, detail: dict[str, Any]) -> None:
        try:
            await self._report(ReplicaStatus.SERVING, detail)
        except NOT_WRITTEN as error:
            logger.warning("The row of %s was not written: %s", self._rows.replica, error)

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
        logger.error("The engine of %s is ended: %s.", self._rows.replica, wrong)
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
        await self._rows.report(self._args.ref.version, status, detail)


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
