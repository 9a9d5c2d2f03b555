"""A worker's side of the coordinator: it joins, gives signs of life, hears when a formation is over."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from train_jobs.formation.messages import (
    Advanced,
    Beat,
    Broken,
    End,
    Formation,
    Formed,
    Joined,
    Orders,
    Phase,
    Raised,
)
from train_jobs.ray_errors import in_one_sentence, unwrap

_LEAST_PAUSE_S = 0.05
_CALL_TIMEOUT_S = 60.0


class CoordinatorLostError(Exception):
    """The coordinator does not answer. Where it `is_dead`, there is nothing to work for."""

    def __init__(self, message: str, *, is_dead: bool) -> None:
        super().__init__(message)
        self.is_dead = is_dead


class Member:
    """One worker process; its thread beats from the moment that it begins."""

    def __init__(self, coordinator: Any, rank: int) -> None:
        import ray

        context = ray.get_runtime_context()
        self.name = f"{rank}-{uuid.uuid4().hex[:8]}"
        self.rank, self.pid, self.node_ip = rank, os.getpid(), ray.util.get_node_ip_address()
        self._coordinator = coordinator
        self._joined = Joined(
            self.name, rank, self.pid, self.node_ip, context.get_node_id(), context.current_actor
        )
        self._generation = 0
        self._phase, self._step, self._marks, self.compute_s = Phase.WARMING, 0, 0, 0.0
        self._orders = Orders(dissolved=False, regroup=False, commit_now=False)
        self._is_alone = False
        self._thread = threading.Thread(target=self._beat, name="linnet-beat", daemon=True)

    def hold_back(self) -> None:
        """Wait while those that have just lost somebody are getting going without this worker."""
        while not self._call("may_warm_up"):
            pass

    def begin(self) -> None:
        """Say that this process is there, and give signs of life from now on."""
        self._call("begun", self._joined)
        self._thread.start()

    def join(self) -> None:
        """Say that this worker is warm."""
        self._call("join", self._joined)

    def could_not_start(self, error: BaseException) -> None:
        """This worker did not get warm."""
        self._call("could_not_start", self._joined, error)

    def next_formation(self, state_step: int | None) -> Formation | End:
        """Wait to be told with whom to train; `state_step` is where this worker's own state is at."""
        self.mark(Phase.IDLE)
        left = self._generation
        self._call("ready", self.name, state_step)
        while True:
            found = self._call("next_formation", self.name, left)
            if isinstance(found, Formation):
                self._generation = found.generation
                self._orders = Orders(dissolved=False, regroup=False, commit_now=False)
                self.mark(Phase.FORMING)
            if found is not None:
                return found

    def mark(self, phase: Phase, step: int | None = None) -> None:
        """Something got done; `phase` is what comes next."""
        self._phase, self._marks = phase, self._marks + 1
        self._step = self._step if step is None else step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within what is being done, others are waited for."""
        phase = self._phase
        self.mark(Phase.EXCHANGING)
        yield
        self.mark(phase)

    def is_over(self) -> bool:
        """Whether the formation was dissolved."""
        return self._orders.dissolved or self._is_alone

    @property
    def wants_regroup(self) -> bool:
        """Whether another worker waits to be taken in after this step."""
        return self._orders.regroup

    @property
    def wants_commit(self) -> bool:
        """Whether a node is about to go, so that what there is should be committed."""
        return self._orders.commit_now

    def broken(self, text: str) -> None:
        """An exchange failed."""
        self._call("broken", Broken(self.name, self._generation, text))

    def formed(self, step: int, skipped: list[str], restored_s: float) -> None:
        """As rank 0: the formation goes on from `step`."""
        self._call("formed", Formed(self._generation, step, tuple(skipped), restored_s))

    def advanced(self, step: int, seconds: float, verdict: str, skipped: str = "") -> None:
        """As rank 0: a step is done; not waited for, and what goes wrong with it ends the run there."""
        self._coordinator.advanced.remote(Advanced(self._generation, step, seconds, verdict, skipped))

    def committed(self, step: int) -> None:
        """As rank 0: a checkpoint is complete. Waited for, so that nobody leaves before it is known."""
        self._call("committed", step)

    def raised(self, error: BaseException) -> None:
        """This worker's program failed in the step in hand."""
        self._call("raised", Raised(self.name, self._generation, self._step, error, in_one_sentence(error)))

    def finished(self, step: int) -> None:
        """As rank 0: the run is at its last step, committed."""
        self._call("finished", step)

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        try:
            return ray.get(getattr(self._coordinator, method).remote(*arguments), timeout=_CALL_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            self._is_alone = True
            is_dead = isinstance(error, ray.exceptions.ActorDiedError)
            raise CoordinatorLostError(str(error), is_dead=is_dead) from error
        except ray.exceptions.RayTaskError as error:
            raise unwrap(error) or error from error

    def _beat(self) -> None:
        pause = threading.Event()
        # The coordinator answers when there is something to say, or after a while.
        while not self._is_alone and not pause.wait(_LEAST_PAUSE_S):
            generation = self._generation
            beat = Beat(self.name, generation, self._phase, self._step, self._marks, self.compute_s)
            try:
                orders = self._call("beat", beat, self._orders)
            except CoordinatorLostError:
                return
            if generation == self._generation:
                self._orders = orders
