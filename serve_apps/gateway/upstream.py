"""The byte proxy: one request to one replica, retried on others of the same version only."""

from __future__ import annotations

import asyncio
import io
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from cluster.state.losses import Signal
from serve_apps.gateway import openai_errors
from serve_apps.gateway.balancer import OUT, Balancer
from serve_apps.gateway.config import GatewayConfig
from serve_apps.gateway.connections import watched_socket
from serve_apps.gateway.directory import Replica, ReplicaDirectory
from serve_apps.gateway.events import EventFramer
from serve_apps.gateway.fresh_replicas import FreshOf, kept_apart, none_fresh, spares
from serve_apps.gateway.headers import returned
from serve_apps.gateway.metrics import GatewayMetrics
from serve_apps.gateway.observation import Notes
from serve_apps.gateway.openai_errors import Refusal
from serve_apps.gateway.prefix_affinity import PrefixAffinity
from serve_apps.gateway.prompt_text import prompt_text
from serve_apps.gateway.retry_budget import RetryBudget
from serve_apps.gateway.routing import RoutingPolicy
from serve_apps.gateway.selection import Choice
from serve_apps.gateway.sleeping import NoSleep, Sleep
from serve_apps.gateway.standbys import StandbysOf, nobody
from serve_apps.gateway.trace import CANCELLED, UNTRACED_SPAN, RequestTrace, Span
from serve_apps.losses.watch import LossWatch
from serve_apps.replay.wire import RESUME_TYPE, Resume, pack

ATTEMPTS = 3
"""How often a request may be sent; a refused connection has sent nothing and does not count."""

_INTERNAL_ERROR = 500
_POLL_S = 0.05
# Below the 5 s after which uvicorn closes an idle connection, so that no request meets a closing one.
_KEEP_ALIVE_S = 4.0
# aiohttp writes larger bytes in one go and warns that it holds up the loop; a file it sends in parts.
_LARGE_BODY = 1024 * 1024

_log = logging.getLogger(__name__)


class Failure(StrEnum):
    """Why an attempt ended before its first byte; the values are metric labels."""

    REFUSED = "refused"
    DROPPED = "dropped"
    UNAVAILABLE = "unavailable"
    FAULTY = "faulty"


@dataclass(slots=True)
class Call:
    """One request on its way.

    `deadline` is a time of the event loop; `patience_s` is how long it may still wait for a
    replica, and `cold_s` for one of a version that sleeps; `strikes` counts its failures on each,
    `attempts` all that may have begun; `fault` is a replica's own word on why it failed, given
    where no other replica does better. `goes_on`: it asks for the rest of a stream. `prompt` is its
    text, once somebody has asked for it.
    """

    choice: Choice
    path: str
    headers: CIMultiDict[str]
    body: bytes
    deadline: float
    patience_s: float
    cold_s: float
    notes: Notes
    trace: RequestTrace
    goes_on: bool = False
    strikes: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    fault: Answer | Refusal | None = None
    prompt: str | None = None

    def text(self) -> str:
        """The beginning of its prompt; empty where there is none to be had."""
        if self.prompt is None:
            self.prompt = prompt_text(self.body)
        return self.prompt

    def rule_out(self, replica_id: str) -> None:
        """The replica was lost in the middle of its answer."""
        self.strikes[replica_id] = OUT
        self.attempts += 1

    def resumed(self, resume: Resume) -> Call:
        """The call that goes on with its stream on another replica."""
        headers = self.headers.copy()
        headers["Content-Type"] = RESUME_TYPE
        return replace(self, headers=headers, fault=None, body=pack(resume, self.body), goes_on=True)


class Answer:
    """A replica's answer: whole in `first`, or, when `streams`, its first events.

    Closing it before the end of a stream ends the connection, which is how a replica learns
    that it may stop computing.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        replica_id: str,
        first: bytes,
        framer: EventFramer | None,
        leave: Callable[[], None],
        *,
        span: Span = UNTRACED_SPAN,
    ) -> None:
        self.replica_id = replica_id
        self.status = response.status
        self.headers = returned(response.raw_headers)
        self.first = first
        self.streams = framer is not None
        self._response = response
        self.broken_by: Exception | None = None
        self._framer = framer or EventFramer()
        self._leave = leave
        self._span = span
        self._ended = framer is None

    async def rest(self) -> AsyncIterator[bytes]:
        """The events after `first`, as they come; a stream that breaks sets `broken_by` and ends."""
        read, push = self._response.content.readany, self._framer.push
        try:
            while chunk := await read():
                if ready := push(chunk):
                    yield ready
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.broken_by = error
            return
        self._ended = True
        if held := self._framer.rest():
            yield held

    def close(self) -> None:
        """Done with it, or no longer wanted."""
        self._response.close()
        self._leave()
        self._span.end(status=self.status, error=self._error())

    def _error(self) -> str:
        if self.broken_by is not None:
            return type(self.broken_by).__name__
        if not self._ended:
            return CANCELLED
        return str(self.status) if self.status >= 400 else ""


class Upstream:
    """Sends calls to the replicas of a version over kept-alive connections."""

    def __init__(
        self,
        config: GatewayConfig,
        directory: ReplicaDirectory,
        metrics: GatewayMetrics,
        watch: LossWatch,
        *,
        replica_key: str | None = None,
        standbys: StandbysOf = nobody,
        fresh: FreshOf = none_fresh,
        sleep: Sleep | None = None,
    ) -> None:
        self._config = config
        self._standbys = standbys
        self._fresh = fresh
        self._sleep = sleep or NoSleep()
        self._watch = watch
        self._own_headers = {"Authorization": f"Bearer {replica_key}"} if replica_key else {}
        self._directory = directory
        self._metrics = metrics
        self._balancer = Balancer()
        aware = config.routing.policy is RoutingPolicy.PREFIX_AWARE
        self._affinity = PrefixAffinity(config.routing, directory) if aware else None
        self._budgets: dict[Choice, RetryBudget] = {}
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(self, call: Call) -> Answer | Refusal:
        """The answer of some replica of the call's version; the caller closes it."""
        model, version = call.choice.model, call.choice.version
        failure: Failure | None = None
        budget = self._budget(call.choice)
        budget.earn()
        while call.attempts < ATTEMPTS:
            replica = await self._free_replica(call)
            if replica is None:
                return call.fault or openai_errors.no_replica(model, version)
            if failure is not None:
                if failure is not Failure.REFUSED and not budget.spend():
                    break
                self._metrics.retried(model, version, failure)
                call.notes.retries += 1
            outcome = await self._attempt(call, replica)
            if not isinstance(outcome, Failure):
                self._watch.heard(replica.id)
                self._balancer.answered(replica.id)
                return outcome
            failure = outcome
            call.attempts += failure is not Failure.REFUSED
            self._note(call, replica, failure)
        return call.fault or openai_errors.upstream_failed(model, version, call.attempts)

    async def try_once(self, call: Call) -> Answer | Refusal | Failure | None:
        """One attempt, on a replica that runs now, of which nobody is told; None where there is none."""
        running = self._directory.replicas(call.choice.model, call.choice.version)
        replica = self._pick(call, running)
        return None if replica is None else await self._attempt(call, replica)

    def may_go_on(self, choice: Choice) -> bool:
        """Whether a broken stream of the version may be asked of another replica."""
        return self._budget(choice).spend()

    def _budget(self, choice: Choice) -> RetryBudget:
        found = self._budgets.get(choice)
        if found is None:
            found = self._budgets[choice] = RetryBudget()
        return found

    async def _free_replica(self, call: Call) -> Replica | None:
        while True:
            running = self._directory.replicas(call.choice.model, call.choice.version)
            replica = self._pick(call, running)
            if replica is not None or call.fault is not None or not await self._wait(call, running):
                return replica

    async def _wait(self, call: Call, running: Sequence[Replica]) -> bool:
        """Whether there was some patience left, which is a little less now."""
        cold = not running and self._sleep.holds(call.choice)
        if cold:
            self._sleep.wake(call.choice)
        pause = min(_POLL_S, call.cold_s if cold else call.patience_s)
        if pause <= 0:
            return False
        if cold:
            call.cold_s -= pause
        else:
            call.patience_s -= pause
        await asyncio.sleep(pause)
        return True

    def _pick(self, call: Call, running: Sequence[Replica]) -> Replica | None:
        spare = self._spares(call.choice, running)
        affinity = self._affinity
        prefixes = affinity.of(call.choice) if affinity is not None else None
        if affinity is None or prefixes is None or not (text := call.text()):
            return self._balancer.pick(running, call.strikes, spares=spare)
        text = affinity.begin(call.choice, text)
        prefer = partial(prefixes.narrow, text)
        replica = self._balancer.pick(running, call.strikes, spares=spare, prefer=prefer)
        if replica is not None:
            prefixes.sent(text, replica.id)
        return replica

    def _spares(self, choice: Choice, running: Sequence[Replica]) -> frozenset[str]:
        standbys = self._standbys(choice.model, choice.version)
        fresh = self._fresh(choice.model, choice.version)
        names = [replica.id for replica in running]
        if fresh:
            fresh = kept_apart(choice, names, standbys, fresh, self._is_full)
        return spares(choice, names, standbys, fresh)

    def _is_full(self, replica_id: str) -> bool:
        return self._balancer.in_flight(replica_id) >= self._config.max_in_flight_per_replica

    async def _attempt(self, call: Call, replica: Replica) -> Answer | Refusal | Failure:
        outcome: Answer | Refusal | Failure | None = None
        span = call.trace.attempts(replica, goes_on=call.goes_on)
        span.pass_on(call.headers)
        self._balancer.enter(replica.id)
        call.notes.new_replica = self._balancer.is_new(replica.id)
        try:
            outcome = await self._exchange(call, replica, span)
        except aiohttp.ClientConnectorError:
            outcome = Failure.REFUSED
        except aiohttp.ConnectionTimeoutError:
            # A host that does not even refuse costs each caller its timeout, unlike a port nobody listens on.
            self._balancer.failed(replica.id)
            outcome = Failure.REFUSED
        except TimeoutError:
            limit = self._config.request_timeout_s
            outcome = openai_errors.upstream_timeout(call.choice.model, call.choice.version, limit)
        except (aiohttp.ClientError, OSError):
            outcome = Failure.DROPPED
        finally:
            if not isinstance(outcome, Answer):
                self._balancer.leave(replica.id)
                span.end(error=_error_of(outcome))
        return outcome

    async def _exchange(self, call: Call, replica: Replica, span: Span) -> Answer | Refusal | Failure:
        response = await self._client().post(
            URL(replica.base_url.rstrip("/") + call.path, encoded=True),
            data=call.body if len(call.body) < _LARGE_BODY else io.BytesIO(call.body),
            headers=call.headers,
            allow_redirects=False,
            timeout=self._timeout(call),
        )
        outcome: Answer | Refusal | Failure | None = None
        try:
            outcome = await self._read(response, call, replica, span)
        finally:
            if not isinstance(outcome, Answer):
                response.close()
        return outcome

    async def _read(
        self, response: aiohttp.ClientResponse, call: Call, replica: Replica, span: Span
    ) -> Answer | Refusal | Failure:
        def leave() -> None:
            self._balancer.leave(replica.id)

        kind = response.headers.get("Content-Type", "")
        if response.status < 400 and kind.startswith("text/event-stream"):
            framer, first = EventFramer(), b""
            while not first and (chunk := await response.content.readany()):
                first = framer.push(chunk)
            return Answer(response, replica.id, first, framer, leave, span=span)
        # Read to its end before the caller sees any of it, so that a break is still retried.
        body = await response.read()
        verdict = _verdict(response, kind, body, call)
        if response.status != _INTERNAL_ERROR or isinstance(verdict, Failure):
            return verdict or Answer(response, replica.id, body, None, leave, span=span)
        call.fault = verdict or Answer(response, replica.id, body, None, _left_already)
        return Failure.FAULTY

    def _is_adapter(self, choice: Choice) -> bool:
        """Of an adapter, a replica that is well may say that it has it no longer."""
        return self._directory.host(choice.model, choice.version) != choice.version

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0, keepalive_timeout=_KEEP_ALIVE_S, socket_factory=watched_socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._own_headers,
                auto_decompress=False,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            )
        return self._session

    def _timeout(self, call: Call) -> aiohttp.ClientTimeout:
        left = call.deadline - asyncio.get_running_loop().time()
        return aiohttp.ClientTimeout(total=max(left, 0.001), sock_connect=self._config.connect_timeout_s)

    def _note(self, call: Call, replica: Replica, failure: Failure) -> None:
        _log.warning("%s of %s:%s: %s", replica.id, call.choice.model, call.choice.version, failure)
        self._watch.retried(replica.id)
        if failure is Failure.REFUSED:
            self._watch.missed(replica.id, Signal.REFUSED)
            self._balancer.avoid(replica.id)
        else:
            # A kept-alive connection that was closed just then looks like a replica that died: one
            # dropped request does not rule out the replica, where there is no other.
            call.strikes[replica.id] += 1 if failure is Failure.DROPPED else OUT
            if failure is not Failure.UNAVAILABLE or not self._is_adapter(call.choice):
                self._balancer.failed(replica.id)
            if failure is Failure.DROPPED:
                self._watch.missed(replica.id, Signal.DROPPED)


def _error_of(outcome: Refusal | Failure | None) -> str:
    if outcome is None:
        return CANCELLED
    return outcome.code if isinstance(outcome, Refusal) else outcome


def _left_already() -> None:
    """A fault is kept after its replica is no longer waited for."""


def _verdict(
    response: aiohttp.ClientResponse, kind: str, body: bytes, call: Call
) -> Refusal | Failure | None:
    """None for an answer that is passed on as it is."""
    if response.status == 503 and not body:
        return Failure.UNAVAILABLE
    if response.status < 400:
        return None
    if kind.startswith("application/json"):
        return _verdict_on_json(response.status, body, call)
    if response.status == 404:
        # Not vLLM's own 404, which is JSON: the port belongs to another application by now.
        return Failure.UNAVAILABLE
    wait = response.headers.get("Retry-After", "")
    text = body.decode("utf-8", "replace").strip()
    return openai_errors.upstream_error(response.status, text, float(wait) if wait.isdecimal() else None)


def _verdict_on_json(status: int, body: bytes, call: Call) -> Refusal | None:
    if b'"error"' in body:
        return None
    if status == 404:
        # FastAPI's own words: vLLM has mounted no such route for this model.
        return openai_errors.unsupported_route(call.choice.model, call.choice.version, call.path)
    return openai_errors.upstream_error(status, body.decode("utf-8", "replace").strip(), None)
