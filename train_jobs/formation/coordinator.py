"""The actor that the workers of a run gather around: a shell of Ray around the roster and the receipts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.config import Settings
from cluster.errors import LinnetError
from cluster.recovery.classes import Signal
from cluster.storage import Storage
from train_jobs.formation import ray_signals
from train_jobs.formation.deaths import Deaths
from train_jobs.formation.judging import Judge, Views
from train_jobs.formation.messages import (
    Advanced,
    Beat,
    Broken,
    End,
    Formation,
    Formed,
    Joined,
    Orders,
    Raised,
    Source,
)
from train_jobs.formation.probing import Probes
from train_jobs.formation.roster import Form, Incident, Kill, Moved, Roster, Rules
from train_jobs.formation.slowness import slow_member
from train_jobs.formation.starting import MOST_FAILURES, Starts
from train_jobs.ray_errors import in_one_sentence
from train_jobs.run_files import AttemptRecord, RunFiles, WorkerRecord
from train_jobs.sampling import step_samples
from train_jobs.spec import FaultTolerance, TrainSpec

if TYPE_CHECKING:
    from train_jobs.encoded import EncodedData

_LOG = logging.getLogger("train_jobs")
_TICK_S = 0.2
_ANSWER_WITHIN_S = 5.0
_BEAT_EVERY_S = 0.5
_DRAIN_EVERY_TICKS = 5


def rules_of(spec: TrainSpec) -> Rules:
    """Who trains, as a spec says it."""
    goes_on = spec.fault_tolerance is FaultTolerance.CONTINUE
    return Rules(
        slots=spec.slots,
        min_workers=spec.min_workers,
        min_live=spec.min_live,
        may_shrink=goes_on or spec.workers is not None,
        keep_state=not spec.is_sharded,
        prove=not goes_on,
        hang_timeout_s=spec.failures.hang_timeout_s,
        keep_places=spec.is_sharded,
    )


class Coordinator:
    """One launch of a run. It writes attempts and receipts; nothing else does."""

    def __init__(
        self, spec: TrainSpec, settings: Settings, launch: str, committed_step: int, dataset: EncodedData
    ) -> None:
        import torch.distributed as dist

        self.files = RunFiles(Storage(settings.root), spec.run)
        self._launch = launch
        # It outlives every formation, so a new one needs no new meeting place.
        self._meeting = dist.TCPStore(ray_signals.own_address(), 0, is_master=True, wait_for_workers=False)
        last = max((record.attempt for record in self.files.read_attempts()), default=0)
        self._spec, self._settings, self._dataset = spec, settings, dataset
        self._node = ray_signals.own_node()
        views = Views(self._live, self._standby, self._sample_ids, ray_signals.node_alive, self._node)
        self._judge = Judge(spec, self.files, committed_step, views)
        store = (ray_signals.own_address(), self._meeting.port)
        self.roster = Roster(
            rules_of(spec), store, self._judge, last + 1, self._node, committed_step=committed_step
        )
        self._step = committed_step
        self._starts = Starts()
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._deaths = Deaths(self.roster, self._act, self._node)
        self._probes = Probes(ray_signals.node_answers, self._node)

    async def start(self) -> None:
        """Begin to look after the workers."""
        self._watching = asyncio.create_task(self._watch())

    async def launched(self, workers: int) -> None:
        """Ray Train is about to start so many worker processes."""
        self.roster.launched(workers, time.time())

    async def may_warm_up(self) -> bool:
        """Whether a newcomer is wanted now; False to ask again.

        Not while a full formation has yet to get past a failure: it needs the cores more than a spare.
        """
        limit = time.monotonic() + _ANSWER_WITHIN_S
        while not self.roster.ended and self._has_to_hold_back():
            if time.monotonic() > limit:
                return False
            await self._until_changed(_TICK_S)
        return True

    def _has_to_hold_back(self) -> bool:
        recovers = self.roster.is_full and self._judge.is_recovering
        return recovers or not self._starts.may_begin(time.time())

    async def begun(self, joined: Joined) -> None:
        """A worker's process is there and warms up."""
        gone = self._starts.begun(joined, time.time())
        if gone is not None:
            self._start_failed(gone, Signal.PROCESS_EXIT, f"pid {gone.pid} ended while it warmed up")

    async def join(self, joined: Joined) -> None:
        """A worker is warm."""
        self._starts.warm(joined.worker)
        self.roster.join(joined, time.time())

    async def ready(self, worker: str, state_step: int | None) -> None:
        """A worker waits for a formation."""
        self.roster.ready(worker, state_step, time.time())
        self._act()

    async def next_formation(self, worker: str, left: int) -> Formation | End | None:
        """The formation that a worker is in once it is newer than the one it left; None to ask again."""
        limit = time.monotonic() + _ANSWER_WITHIN_S
        while time.monotonic() < limit:
            if self.roster.ended or self.roster.has_left(worker):
                return self._end()
            found = self.roster.formation
            if found and self.roster.is_formed and found.generation > left and worker in found.workers:
                return found
            await self._until_changed(limit - time.monotonic())
        return None

    async def beat(self, beat: Beat, heard: Orders) -> Orders:
        """A sign of life; answered once the orders are others than those `heard`, or the next is due."""
        self._starts.beat(beat.worker, time.time())
        limit = time.monotonic() + _BEAT_EVERY_S
        orders = self.roster.beat(beat, time.time())
        while orders == heard and (left := limit - time.monotonic()) > 0:
            await self._until_changed(left)
            orders = self.roster.orders(beat)
        return orders

    async def broken(self, told: Broken) -> None:
        """An exchange failed."""
        self.roster.broken(told.worker, told.generation, told.text, time.time())
        await self._deaths.look(everywhere=True)
        self._act()

    async def raised(self, told: Raised) -> None:
        """A worker's program failed; an error of ours that a repetition would meet again ends the run."""
        if told.generation != self.roster.generation:
            return
        ours = told.error if isinstance(told.error, LinnetError) else None
        signal = ray_signals.signal_of(told.error)
        self.roster.raised(told.worker, signal, told.detail, time.time(), step=told.step, error=ours)
        self._act()

    async def could_not_start(self, joined: Joined, error: BaseException) -> None:
        """A worker did not get warm."""
        if self._starts.failed(joined.worker, time.time()):
            self._start_failed(joined, ray_signals.signal_of(error), in_one_sentence(error), error)

    def _start_failed(
        self, joined: Joined, signal: Signal, detail: str, error: BaseException | None = None
    ) -> None:
        """One that never can must not be started for ever; those that train go on without it."""
        _LOG.warning("rank %d on %s could not start: %s", joined.rank, joined.node_ip, detail)
        if self.roster.ended or self.roster.is_formed:
            return
        final = error if isinstance(error, LinnetError) and not error.retryable else None
        if final is None and self._starts.failures >= MOST_FAILURES:
            final = LinnetError(
                f"Rank {joined.rank} on {joined.node_ip} cannot start: {detail}",
                code="train.cannot_start",
                hint=f"{getattr(error, 'hint', '')} Its whole traceback is in Ray's logs.".lstrip(),
            )
        if final is not None:
            now = time.time()
            self.roster.end(self._judge(Incident(signal, None, detail, now, now, 0, error=final)).stop)
        self._act()

    async def formed(self, told: Formed) -> None:
        """A formation goes on from a step."""
        formation = self.roster.formation
        if formation is None or told.generation != formation.generation:
            return
        self._step = told.step
        self._starts.formed()
        if formation.source is Source.CHECKPOINT:
            self.roster.leaving.committed_step = told.step
        workers = [
            WorkerRecord(rank=rank, pid=joined.pid, node_ip=joined.node_ip)
            for rank, joined in enumerate(self.roster.members[name].joined for name in formation.workers)
        ]
        self._judge.formed(told, formation, time.time())
        self.files.add_attempt(
            AttemptRecord(
                attempt=formation.attempt,
                at=time.time(),
                launch=self._launch,
                resumed_from_step=told.step,
                source=formation.source,
                skipped=list(told.skipped),
                workers=workers,
            )
        )

    async def advanced(self, told: Advanced) -> None:
        """A step is done."""
        with self._heard():
            if told.generation == self.roster.generation:
                self._step = told.step
                self._judge.advanced(told, time.time())
                slow = slow_member(self.roster.current())
                if slow:
                    self._judge.name_slow(*slow, time.time())

    async def committed(self, step: int) -> None:
        """A checkpoint is complete."""
        with self._heard():
            self._judge.committed(step, time.time())
            self.roster.committed(step)

    async def committed_step(self) -> int:
        """The newest checkpoint's step."""
        return self._judge.committed_step

    async def finished(self, step: int) -> None:
        """The run is at its last step."""
        self._step = step
        self._judge.finished(time.time())
        self.roster.end(None)
        self._act()

    async def outcome(self) -> End | None:
        """How it ended; None while it has not."""
        return self._end() if self.roster.ended else None

    def _live(self) -> int:
        return len(self.roster.current())

    def _standby(self) -> int:
        return self.roster.spare()

    def _sample_ids(self, step: int) -> list[str]:
        from train_jobs.encoded import open_encoded

        ids = open_encoded(self._dataset, self._settings).ids
        batch = self._spec.global_batch_size
        return [ids[i] for i in step_samples(self._spec.seed, step, dataset_size=len(ids), batch_size=batch)]

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Nobody waits for the answer: what is raised ends the run, which must not go on unrecorded."""
        try:
            yield
        except Exception as error:
            _LOG.exception("the coordinator cannot keep account of the run")
            text = f"The coordinator cannot keep account of the run: {in_one_sentence(error)}"
            hint = getattr(error, "hint", "") or "The same command resumes the run."
            self.roster.end(LinnetError(text, code="train.coordinator", hint=hint, retryable=True))
            self._act()

    def _end(self) -> End:
        return End(self._step, self.roster.ended if isinstance(self.roster.ended, LinnetError) else None)

    async def _until_changed(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), max(seconds, 0.01))
        except TimeoutError:
            return

    async def _watch(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(_TICK_S)
            ticks += 1
            try:
                await self._deaths.look()
                self.roster.unreachable = self._probes.look(self.roster.silent_nodes(time.time()))
                if ticks % _DRAIN_EVERY_TICKS == 0:
                    threads = self._spec.threads_per_worker
                    drains, room = await asyncio.to_thread(ray_signals.surroundings, threads)
                    self.roster.draining(drains, room, time.time())
                self._end_silent_newcomers(time.time())
                self._act()
            except Exception:
                _LOG.exception("the coordinator's watch")

    def _end_silent_newcomers(self, now: float) -> None:
        for joined in self._starts.silent(now):
            self._starts.failed(joined.worker, now)
            self._start_failed(
                joined, Signal.NO_HEARTBEAT, f"pid {joined.pid} fell silent while it warmed up"
            )
            self._end_process(joined)

    def _act(self) -> None:
        for effect in self.roster.tick(time.time()):
            if isinstance(effect, Kill):
                self._end_process(effect.member.joined, with_stack=effect.with_stack)
            elif isinstance(effect, Moved):
                self._judge.moved(time.time())
                _LOG.info("workers leave%s", ", for a new launch" if self.roster.relaunching else "")
            elif isinstance(effect, Form):
                self._judge.forming(effect.formation, time.time())
        # Whoever waits looks again, and those that wait anew wait for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    def _end_process(self, joined: Joined, *, with_stack: bool = True) -> None:
        async def end() -> None:
            stack = await asyncio.to_thread(ray_signals.end_process, joined.pid, joined.node_id, with_stack)
            self._judge.ended(joined.worker, stack, time.time())

        task = asyncio.create_task(end())
        task.add_done_callback(lambda done: done.exception())


def create(
    spec: TrainSpec, settings: Settings, launch: str, committed_step: int, dataset: EncodedData
) -> Any:
    """Start the coordinator on this node; it ends with the driver."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(Coordinator)
        .options(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)
        .remote(spec, settings, launch, committed_step, dataset)
    )
    ray.get(actor.start.remote())
    return actor
