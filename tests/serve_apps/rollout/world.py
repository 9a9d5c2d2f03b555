"""A store on disk with committed versions, and replicas that say they serve."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, select, update

from cluster import manifest as manifests
from cluster.config import Settings
from cluster.manifest import VersionKind, VersionManifest
from cluster.registry import ModelStore
from cluster.state import losses, replicas
from cluster.state.losses import Loss, Signal
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import (
    AliasRow,
    Base,
    ControllerRow,
    DecisionRow,
    EventRow,
    LookRow,
    PolicyRow,
    ReplicaRow,
    RolloutRow,
    utc_now,
)

MODEL = "tiny"
VERSIONS = ("v1", "v2", "v3")


def settings_at(home: Path) -> Settings:
    return Settings(home=home, root=str(home), state_url=f"sqlite:///{home}/state/linnet.db")


def add_version(
    store: ModelStore, version: str, *, tokenizer: str = "t" * 64, template: str | None = None
) -> None:
    manifest = VersionManifest(
        files={},
        model=MODEL,
        version=version,
        kind=VersionKind.BASE,
        source="test",
        dtype="float32",
        architecture="LlamaForCausalLM",
        parameters=1,
        tokenizer_sha256=tokenizer,
        chat_template_sha256=template,
    )
    manifests.commit(store.storage, f"models/{MODEL}/{version}", manifest)


def make_store(home: Path) -> ModelStore:
    store = ModelStore.open(settings_at(home))
    for version in VERSIONS:
        add_version(store, version)
    store.set_alias(MODEL, "stable", "v1", expected=None, reason="first")
    return store


def set_replica(
    store: ModelStore,
    version: str,
    status: ReplicaStatus = ReplicaStatus.SERVING,
    detail: dict[str, Any] | None = None,
) -> None:
    with store.database.transaction() as session:
        replicas.report(
            session, replica=f"{version}#1", model=MODEL, version=version, status=status, detail=detail
        )


def drop_replica(store: ModelStore, version: str) -> None:
    with store.database.transaction() as session:
        replicas.forget(session, f"{version}#1")


def serve_for_long(store: ModelStore, version: str, replica: str) -> None:
    """A replica that serves and needs not say so again."""
    with store.database.transaction() as session:
        replicas.report(session, replica=replica, model=MODEL, version=version, status=ReplicaStatus.SERVING)
    outlast_the_test(store)


def outlast_the_test(store: ModelStore) -> None:
    """No lease of a replica that there is runs out, however slow the machine is."""
    with store.database.transaction() as session:
        session.execute(update(ReplicaRow).values(seen_at=utc_now() + timedelta(days=1)))


def lose_replica(store: ModelStore, version: str, replica: str, *, killed: bool) -> None:
    """It stops in good order, or is missed by a gateway."""
    with store.database.transaction() as session:
        replicas.forget(session, replica)
    if killed:
        miss_replica(store, version, replica)


def miss_replica(store: ModelStore, version: str, replica: str) -> None:
    """It is missed by a gateway; its row stays for the lease."""
    now = utc_now()
    with store.database.transaction() as session:
        losses.add(
            session,
            Loss(
                replica=replica,
                model=MODEL,
                version=version,
                signal=Signal.DROPPED,
                heard_at=now,
                detected_at=now,
                isolated_at=now,
            ),
        )


def refuse_replica(store: ModelStore, version: str, replica: str) -> None:
    """A replica that does not prove itself."""
    with store.database.transaction() as session:
        replicas.report(
            session,
            replica=replica,
            model=MODEL,
            version=version,
            status=ReplicaStatus.REFUSED,
            detail={"reason": "it answers otherwise"},
        )


def dump(store: ModelStore) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that a rollout command or a controller may write."""
    tables: list[type[Base]] = [
        AliasRow,
        PolicyRow,
        RolloutRow,
        LookRow,
        DecisionRow,
        EventRow,
        ControllerRow,
    ]
    with store.database.snapshot() as session:
        return {
            table.__tablename__: [tuple(row) for row in session.execute(select(*table.__table__.columns))]
            for table in tables
        }


class Killed(BaseException):
    """Stands for a process that ends there, whatever it would catch."""


@contextmanager
def killed_at(store: ModelStore, statement: int) -> Iterator[None]:
    """Let `statement` SQL statements pass and raise Killed before each one after them."""
    passed = 0

    def kill(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed > statement:
            raise Killed

    engine = store.database._engine
    event.listen(engine, "before_cursor_execute", kill)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", kill)
