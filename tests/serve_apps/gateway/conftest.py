from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import openai
import pytest

from cluster.config import Settings
from cluster.judging import Judging
from cluster.keys import Grant, new_secret
from cluster.state import keys, policies, tallies
from cluster.state.database import Database, open_database
from cluster.storage import Storage
from cluster.tally import Tally
from cluster.traffic import TrafficPolicy
from serve_apps.access_log.log import AccessLog
from serve_apps.access_log.query import AccessLogs, Wanted
from serve_apps.access_log.settling import settle
from serve_apps.access_log.spool import spool_dir
from serve_apps.gateway.app import build_app
from serve_apps.gateway.config import Auth, GatewayConfig
from serve_apps.gateway.fresh_replicas import FreshCache
from serve_apps.gateway.keys import KeyCache
from serve_apps.gateway.policies import PolicyCache
from serve_apps.gateway.sleeping import Sleepers
from serve_apps.gateway.standbys import StandbyCache
from serve_apps.gateway.tally_writer import TallyWriter
from serve_apps.gateway.tasks import TaskTable
from serve_apps.gateway.trace import Tracer
from tests.serve_apps.gateway.servers import (
    Behaviour,
    Engine,
    LoopThread,
    TableDirectory,
    UvicornThread,
    eventually,
)


@pytest.fixture(scope="module")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path}/linnet.db")
    yield database
    database.dispose()


@dataclass
class Stack:
    """Engines, a directory, a state database and the gateway in front of them."""

    loop: LoopThread
    database: Database
    settings: Settings
    directory: TableDirectory = field(default_factory=TableDirectory)
    engines: list[Engine] = field(default_factory=list)
    clients: list[openai.OpenAI] = field(default_factory=list)
    url: str = ""
    cache: PolicyCache | None = None
    fresh: FreshCache | None = None
    server: UvicornThread | None = None
    keys: KeyCache | None = None
    tasks: TaskTable | None = None
    woken: list[tuple[str, str]] = field(default_factory=list)

    def engine(self, version: str, behaviour: Behaviour | None = None) -> Engine:
        """Start one more replica of a version of the model `m`."""
        engine = Engine(version, self.loop, behaviour)
        engine.start()
        self.engines.append(engine)
        present = [replica.base_url for replica in self.directory.replicas("m", version)]
        self.directory.put("m", version, *present, engine.base_url)
        return engine

    def wake(self, model: str, version: str) -> None:
        """What the gateway calls for a version that sleeps."""
        self.woken.append((model, version))

    def held_engine(self, version: str) -> tuple[Engine, asyncio.Event]:
        """An engine that answers nobody before the event is set, in the loop thread."""
        release = asyncio.Event()

        async def hold(request, body):
            await release.wait()
            return await engine._answer(request, body)

        engine = self.engine(version, hold)
        return engine, release

    async def post(self, secret: str = "any", **body: object) -> int:
        """One request from the loop thread; returns the status."""
        url, headers = f"{self.url}/v1/chat/completions", {"authorization": f"Bearer {secret}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json={"model": "m"} | body, headers=headers) as answer,
        ):
            await answer.read()
            return answer.status

    def policy(
        self,
        stable: str = "v1",
        candidate: str | None = None,
        weight: float = 0.0,
        judging: Judging | None = None,
    ) -> None:
        """Store the next policy and wait until the gateway routes by it."""
        with self.database.transaction() as session:
            before = policies.get(session, "m")
            revision = (before.revision if before else 0) + 1
            new = TrafficPolicy(
                model="m",
                revision=revision,
                stable=stable,
                candidate=candidate,
                weight=weight,
                judging=judging,
            )
            policies.put(session, new)
        if self.cache is not None:
            cache = self.cache
            eventually(lambda: cache.get("m") == new, "the gateway knows the policy")

    def tally(self, revision: int = 1) -> Tally:
        """What the gateway has counted under a revision of the policy, once it has stopped."""
        for client in self.clients:
            client.close()
        self.server.stop()
        with self.database.snapshot() as session:
            [found] = tallies.of_model(session, "m", revisions=[revision])
        return found.tally

    def key(self, name: str, **granted) -> str:
        """Make a key and wait until the gateway knows it; returns its secret."""
        secret, cache = new_secret(), self.keys
        with self.database.transaction() as session:
            keys.add(session, Grant(name=name, **granted), secret)
        eventually(lambda: cache.get(secret.encode(), time.time()), "the gateway knows the key")
        return secret

    def revoke(self, name: str) -> None:
        with self.database.transaction() as session:
            keys.revoke(session, keys.find(session, name).id, reason="test")

    def client(self, **options) -> openai.OpenAI:
        defaults = {"base_url": f"{self.url}/v1", "api_key": "secret", "max_retries": 0, "timeout": 20}
        client = openai.OpenAI(**defaults | options)
        self.clients.append(client)
        return client

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics, summed over the labels that are not given; the path must be public."""
        total = 0.0
        for line in httpx.get(f"{self.url}/metrics").raise_for_status().text.splitlines():
            if line.startswith(name + "{") and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def rows(self, count: int) -> list[dict[str, Any]]:
        """The access log, once it has as many rows; latest first."""
        logs = AccessLogs(Storage(self.settings.root), spool_dir(self.settings))
        found: list[dict[str, Any]] = []

        def complete() -> bool:
            found[:] = logs.newest(Wanted(), count + 1).to_pylist()
            return len(found) >= count

        eventually(complete, f"{count} rows are in the log")
        assert len(found) == count
        return found


@pytest.fixture
def launch(loop_thread, database, tmp_path) -> Iterator[Callable[..., Stack]]:
    """Start a gateway; keywords are GatewayConfig's."""
    running: list[Stack] = []

    def start(replica_key: str | None = None, tracer: Tracer | None = None, **settings) -> Stack:
        defaults = {"model": "m", "replica_wait_s": 0.3, "access_log": {"flush_s": 0.02}}
        config = GatewayConfig(**defaults | settings)
        home = Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/linnet.db")
        stack = Stack(loop_thread, database, home)
        stack.cache = PolicyCache(database, config.models, interval_s=0.02)
        log = AccessLog(config.access_log, home, settle) if config.access_log.enabled else None
        if config.auth is not Auth.NONE:
            stack.keys = KeyCache(database, interval_s=0.02)
        stack.tasks = TaskTable(config.models)
        stack.fresh = FreshCache(database, stack.directory, stack.cache, config.models, interval_s=0.02)
        app = build_app(
            config,
            stack.directory,
            stack.cache,
            access_log=log,
            fresh=stack.fresh,
            keys=stack.keys,
            standbys=StandbyCache(database, stack.directory, config.models, interval_s=0.02),
            sleepers=Sleepers(database, stack.directory, config.models, stack.wake, interval_s=0.02),
            tallies=TallyWriter(database, stack.cache, config.models, interval_s=0.02),
            tasks=stack.tasks,
            tracer=tracer,
            replica_key=replica_key,
        )
        stack.server = UvicornThread(app)
        stack.url = stack.server.url
        running.append(stack)
        return stack

    yield start
    for stack in running:
        for client in stack.clients:
            client.close()
        stack.server.stop()
        for engine in stack.engines:
            engine.stop()


@pytest.fixture
def stack(launch) -> Stack:
    """A gateway before one replica each of v1, which is stable, and v2."""
    stack = launch()
    stack.engine("v1")
    stack.engine("v2")
    stack.policy("v1")
    return stack
