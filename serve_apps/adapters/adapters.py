"""The adapters of one replica: loaded, proven, offered, and let go of, while the replica answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from cluster.errors import LinnetError
from cluster.manifest import VersionManifest
from cluster.refs import VersionRef
from cluster.state.replicas import ReplicaStatus
from serve_apps.replica_rows import NOT_WRITTEN

logger = logging.getLogger("ray.serve")

LINGER_S = 3.0
"""For gateways to hear that an adapter is offered no longer; they look several times a second."""
DRAIN_S = 600.0
"""How long requests may keep an adapter; one that is unloaded beneath them is loaded again by vLLM."""
_LOOK_S = 0.2

HandleT = TypeVar("HandleT")


class Engine(Protocol[HandleT]):
    """What an engine does with adapters."""

    async def load(self, ref: VersionRef, directory: Path) -> HandleT:
        """Load one; raises GateFailedError in the engine's words where it cannot."""
        ...

    async def unload(self, handle: HandleT) -> None:
        """Give its memory back."""
        ...

    def in_flight(self, handle: HandleT) -> int:
        """Requests that it is answering."""
        ...


class Rows(Protocol):
    """The replica's rows in the state database."""

    async def report(self, version: str, status: ReplicaStatus, detail: dict[str, Any] | None = None) -> None:
        """Write or renew the row of a version."""
        ...

    async def renew(self, statuses: Mapping[str, ReplicaStatus]) -> None:
        """Renew the rows of all these versions at once."""
        ...

    async def forget(self, version: str) -> None:
        """The version is served no longer."""
        ...


Fetch = Callable[[VersionRef], tuple[VersionManifest, Path]]


@dataclass(slots=True, eq=False)
class _Offer(Generic[HandleT]):
    """A proven adapter; `leaving` is the task that lets go of it, `unloading` its last part."""

    handle: HandleT
    proof: dict[str, Any]
    leaving: asyncio.Task[None] | None = None
    unloading: bool = False


class Adapters(Generic[HandleT]):
    """Brings what is served to what is wanted, one adapter after another. Lives in one event loop.

    All are versions of one model. `fetch` gives the manifest and the verified files of one that
    fits, `prove` asks its golden prompts. What is wrong with one is told in its row and concerns no other.
    """

    def __init__(
        self,
        engine: Engine[HandleT],
        fetch: Fetch,
        prove: Callable[[VersionManifest, HandleT], Awaitable[int]],
        rows: Rows,
        *,
        linger_s: float = LINGER_S,
        drain_s: float = DRAIN_S,
    ) -> None:
        self._engine = engine
        self._fetch = fetch
        self._prove = prove
        self._rows = rows
        self._linger_s = linger_s
        self._drain_s = drain_s
        self.answering: Counter[str] = Counter()
        """Requests of each version that the replica has let in, which the engine may not know yet."""
        self._wanted: tuple[VersionRef, ...] = ()
        self._offers: dict[str, _Offer[HandleT]] = {}
        self._refused: dict[VersionRef, Exception] = {}
        self._status: dict[VersionRef, ReplicaStatus] = {}
        # A renewal must not bring back the row of one that is just let go of.
        self._writing = asyncio.Lock()
        self._work: asyncio.Task[None] | None = None

    def find(self, version: str) -> HandleT | None:
        """The loaded and proven adapter that answers as `version`, one that is leaving too."""
        offer = self._offers.get(version)
        return None if offer is None or offer.unloading else offer.handle

    def want(self, refs: Iterable[VersionRef]) -> None:
        """Serve these and no others; returns at once. Those that were refused before are tried again."""
        self._wanted = tuple(refs)
        self._again(self._refused)

    def retry(self) -> None:
        """Try again those that were refused for what may have passed, such as storage that did not answer."""
        self._again([ref for ref, error in self._refused.items() if getattr(error, "retryable", False)])

    async def settled(self) -> None:
        """Until each wanted adapter is either offered or refused."""
        if self._work is not None:
            await asyncio.shield(self._work)

    async def renew(self, base: Mapping[str, ReplicaStatus], detail: Mapping[str, Any]) -> None:
        """Say again how each stands, and the base beside them, which keeps their leases.

        `detail` is of the replica, so of all of them.
        """
        async with self._writing:
            standing = {
                ref.version: status
                for ref, status in self._status.items()
                if status is not ReplicaStatus.REFUSED
            }
            await self._write(self._rows.renew({**base, **standing}, detail))

    def close(self) -> None:
        """The replica ends, and its engine with it."""
        for task in (self._work, *(offer.leaving for offer in self._offers.values())):
            if task is not None:
                task.cancel()

    def _again(self, refs: Iterable[VersionRef]) -> None:
        for ref in list(refs):
            del self._refused[ref]
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._reconcile())

    async def _reconcile(self) -> None:
        while True:
            # One thing at a time: during each, something else may come to be wanted.
            unwanted = [ref for ref in self._status if ref not in self._wanted]
            missing = [ref for ref in self._wanted if ref not in self._refused and not self._offered(ref)]
            if unwanted:
                await self._withdraw(unwanted[0])
            elif missing:
                await self._offer(missing[0])
            else:
                return

    def _offered(self, ref: VersionRef) -> bool:
        offer = self._offers.get(ref.version)
        return offer is not None and offer.leaving is None

    async def _offer(self, ref: VersionRef) -> None:
        if (known := self._offers.get(ref.version)) is not None and known.leaving is not None:
            if not known.unloading:
                known.leaving.cancel()
                known.leaving = None
                await self._tell(ref, ReplicaStatus.SERVING, known.proof)
                return
            await asyncio.wait([known.leaving])
        began = time.monotonic()
        handle: HandleT | None = None
        try:
            await self._tell(ref, ReplicaStatus.LOADING)
            manifest, directory = await asyncio.to_thread(self._fetch, ref)
            handle = await self._engine.load(ref, directory)
            loaded = time.monotonic()
            await self._tell(ref, ReplicaStatus.PROVING)
            proven = await self._prove(manifest, handle)
        except Exception as error:
            await self._refuse(ref, handle, error)
            return
        took = {"load_s": round(loaded - began, 2), "prove_s": round(time.monotonic() - loaded, 2)}
        self._offers[ref.version] = offer = _Offer(handle, {"proven": proven, **took})
        await self._tell(ref, ReplicaStatus.SERVING, offer.proof)

    async def _refuse(self, ref: VersionRef, handle: HandleT | None, error: Exception) -> None:
        self._refused[ref] = error
        logger.error("The adapter %s is refused: %s", ref, sentence(error))
        if handle is not None:
            await self._unload(ref, handle)
        await self._tell(ref, ReplicaStatus.REFUSED, {"reason": sentence(error)})

    async def _withdraw(self, ref: VersionRef) -> None:
        self._refused.pop(ref, None)
        async with self._writing:
            del self._status[ref]
            await self._write(self._rows.forget(ref.version))
        if (offer := self._offers.get(ref.version)) is not None:
            offer.leaving = asyncio.create_task(self._let_go(ref, offer))

    async def _let_go(self, ref: VersionRef, offer: _Offer[HandleT]) -> None:
        await asyncio.sleep(self._linger_s)
        for _ in range(round(self._drain_s / _LOOK_S)):
            if not (self.answering[ref.version] or self._engine.in_flight(offer.handle)):
                break
            await asyncio.sleep(_LOOK_S)
        offer.unloading = True
        await self._unload(ref, offer.handle)
        del self._offers[ref.version]

    async def _unload(self, ref: VersionRef, handle: HandleT) -> None:
        try:
            await self._engine.unload(handle)
        except Exception:
            # It costs memory and nothing else: nobody is sent to it.
            logger.exception("The adapter %s was not unloaded.", ref)

    async def _tell(
        self, ref: VersionRef, status: ReplicaStatus, detail: dict[str, Any] | None = None
    ) -> None:
        async with self._writing:
            self._status[ref] = status
            await self._write(self._rows.report(ref.version, status, detail))

    async def _write(self, write: Awaitable[None]) -> None:
        """A row that could not be written is written with the next renewal, or runs out of its lease."""
        try:
            await write
        except NOT_WRITTEN as error:
            logger.warning("A row of this replica was not written: %s", error)


def sentence(error: Exception) -> str:
    """What went wrong, for a row."""
    return error.message if isinstance(error, LinnetError) else f"{type(error).__name__}: {error}"
