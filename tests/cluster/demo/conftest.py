"""A store with two versions of the demo's model, a gateway over it, and a demo that drives both."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from cluster.config import Settings
from cluster.demo.client import MODEL
from cluster.demo.commands import Commands
from cluster.demo.state import Demo
from cluster.demo.teller import Teller
from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from tests.cluster.demo.world import SplitGateway, served


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def teller(said: io.StringIO) -> Teller:
    return Teller(Console(file=said, soft_wrap=True, highlight=False))


@pytest.fixture
def demo(settings: Settings, teller: Teller) -> Iterator[Demo]:
    made = Demo(settings, teller, Commands(teller))
    made.base, made.tuned = "v1", "v2"
    yield made
    made.tidy()


@pytest.fixture
def serving(store: ModelStore) -> Callable[[str], None]:
    """Say that a version has a serving replica."""

    def say(version: str) -> None:
        with store.database.transaction() as session:
            replicas.report(
                session,
                replica=f"{version}#1",
                model=MODEL,
                version=version,
                status=ReplicaStatus.SERVING,
                detail={"proven": 3},
            )

    return say


@pytest.fixture
def two_versions(
    store: ModelStore, publish: Callable[..., object], serving: Callable[[str], None]
) -> ModelStore:
    for version in ("v1", "v2"):
        publish(store, f"{MODEL}:{version}")
        serving(version)
    return store


@pytest.fixture
def gateway(two_versions: ModelStore) -> Iterator[SplitGateway]:
    with served(SplitGateway(two_versions)) as running:
        yield running
