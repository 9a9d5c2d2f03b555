"""How many requests go on at once, and who is next: the rest waits a little, or is turned away."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass

from serve_apps.gateway import openai_errors
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.directory import ReplicaDirectory
from serve_apps.gateway.fair_queue import FairQueue
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.sleeping import NoSleep, Sleep
from serve_apps.gateway.standbys import StandbysOf, nobody

# A replica that starts makes room without any request ending, and nothing tells of it.
_LOOK_S = 0.05


class Slot:
    """The right of one request to be under way."""

    def __init__(self, admission: Admission, choice: Choice, host: Choice) -> None:
        self._admission = admission
        self._choice = choice
        self._host = host
        self._left = False

    def leave(self) -> None:
        """Make room for another; a second call changes nothing."""
        if not self._left:
            self._left = True
            self._admission.free(self._choice, self._host)


@dataclass(slots=True, eq=False)
class _Waiter:
    choice: Choice
    lane: str
    outcome: asyncio.Future[Slot | Refusal]

    def tell(self, outcome: Slot | Refusal) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class Admission:
    """Bounds the requests under way, of each version and of the gateway. Lives in one event loop.

    Each version has a line of its own, so that a busy one does not hold up another; the versions
    take turns, and so do the lanes within a line. Adapters and their base share the base's engines, and
    together have no more under way than those may have.
    """

    def __init__(
        self,
        config: GatewayConfig,
        directory: ReplicaDirectory,
        metrics: GatewayMetrics,
        *,
        standbys: StandbysOf = nobody,
        sleep: Sleep | None = None,
    ) -> None:
        self._config = config
        self._directory = directory
        self._metrics = metrics
        self._standbys = standbys
        self._sleep = sleep or NoSleep()
        self._total = 0
        self._under_way: Counter[Choice] = Counter()
        self._by_host: Counter[Choice] = Counter()
        self._lines: OrderedDict[Choice, FairQueue[_Waiter]] = OrderedDict()
        self._look: asyncio.TimerHandle | None = None

    async def enter(self, choice: Choice, lane: str) -> Slot | Refusal:
        """A slot, at once or after waiting; a refusal when the line is full or the wait too long."""
        if choice not in self._lines and self._has_room(choice):
            return self._occupy(choice)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(choice, lane, loop.create_future())
        self._push(waiter)
        expiry = loop.call_later(self._patience_s(choice), self._expire, waiter)
        self._metrics.queued(choice.model, choice.version)
        try:
            return await waiter.outcome
        except asyncio.CancelledError:
            # The slot may have been given in the moment in which the caller left.
            if not waiter.outcome.cancelled() and isinstance(slot := waiter.outcome.result(), Slot):
                slot.leave()
            raise
        finally:
            self._metrics.dequeued(choice.model, choice.version)
            expiry.cancel()
            self._drop(waiter)

    def has_spare(self, choice: Choice) -> bool:
        """Whether one more could be under way without anybody having to wait for it."""
        return choice not in self._lines and self._has_room(choice)

    def _patience_s(self, choice: Choice) -> float:
        # Those before it in the line wait for a replica to be loaded, and it waits for them.
        cold = self._sleep.holds(choice)
        return self._config.cold_start_wait_s if cold else self._config.queue_wait_s

    def free(self, choice: Choice, host: Choice) -> None:
        """A request is over; its slot goes to whoever is next."""
        self._total -= 1
        for counter, one in ((self._under_way, choice), (self._by_host, host)):
            counter[one] -= 1
            if counter[one] <= 0:
                del counter[one]
        self._admit()

    def _push(self, waiter: _Waiter) -> None:
        line = self._lines.setdefault(waiter.choice, FairQueue(self._config.max_queue))
        turned_away = line.push(waiter.lane, waiter)
        if turned_away is not None:
            turned_away.tell(openai_errors.overloaded(waiter.choice.model, waiter.choice.version))
        self._forget_if_empty(waiter.choice)
        self._watch()

    def _expire(self, waiter: _Waiter) -> None:
        waiter.tell(openai_errors.overloaded(waiter.choice.model, waiter.choice.version))

    def _drop(self, waiter: _Waiter) -> None:
        if (line := self._lines.get(waiter.choice)) is not None:
            line.discard(waiter.lane, waiter)
            self._forget_if_empty(waiter.choice)

    def _forget_if_empty(self, choice: Choice) -> None:
        if not self._lines[choice]:
            del self._lines[choice]

    def _watch(self) -> None:
        if self._lines and self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._admit()
        self._watch()

    def _admit(self) -> None:
        while (choice := next(filter(self._has_room, self._lines), None)) is not None:
            waiter = self._lines[choice].pop()
            self._lines.move_to_end(choice)
            self._forget_if_empty(choice)
            if not waiter.outcome.done():
                waiter.tell(self._occupy(choice))

    def _has_room(self, choice: Choice) -> bool:
        host = self._host(choice)
        return (
            self._total < self._config.max_in_flight
            and self._by_host[host] < self._bound(host)
            and (host == choice or self._under_way[choice] < self._bound(choice))
        )

    def _bound(self, choice: Choice) -> int:
        # Without a replica, requests go on to wait for one as `replica_wait_s` says.
        standbys = self._standbys(choice.model, choice.version)
        running = self._directory.replicas(choice.model, choice.version)
        replicas = max(1, sum(replica.id not in standbys for replica in running))
        return self._config.max_in_flight_per_replica * replicas

    def _host(self, choice: Choice) -> Choice:
        return Choice(choice.model, self._directory.host(choice.model, choice.version))

    def _occupy(self, choice: Choice) -> Slot:
        host = self._host(choice)
        self._total += 1
        self._under_way[choice] += 1
        self._by_host[host] += 1
        return Slot(self, choice, host)
