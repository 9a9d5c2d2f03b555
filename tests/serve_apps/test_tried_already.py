"""A refusal stands for a minute; that a deploy ends it is in tests/e2e/test_killed_while_loading.py."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cluster.config import Settings
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.state import replicas
from cluster.state.replicas import ReplicaStatus
from cluster.state.tables import utc_now
from serve_apps.tried_already import WITHIN, again, refused_lately

REF = VersionRef(model="tiny", version="v9")


@pytest.fixture
def store(tmp_path):
    return ModelStore.open(
        Settings(home=tmp_path, root=str(tmp_path), state_url=f"sqlite:///{tmp_path}/linnet.db")
    )


def refuse(store, version="v9", status=ReplicaStatus.REFUSED):
    with store.database.transaction() as session:
        detail = {"reason": "'Lyon' is not 'Paris'"}
        replicas.report(
            session, replica=f"r-{version}", model="tiny", version=version, status=status, detail=detail
        )


def found(store, after=timedelta(0)):
    with store.database.snapshot() as session:
        return refused_lately(session, REF, utc_now() + after)


def test_a_refusal_is_told_again_with_what_it_said(store):
    refuse(store)
    refusal = found(store, timedelta(seconds=7))
    error = again(REF, refusal, refusal.seen_at + timedelta(seconds=7))
    assert error.message == "A replica of `tiny:v9` was refused 7 s ago: 'Lyon' is not 'Paris'"
    assert error.retryable


def test_an_old_refusal_stands_no_longer(store):
    refuse(store)
    assert found(store, WITHIN + timedelta(seconds=1)) is None


def test_neither_another_version_nor_another_end_is_a_refusal(store):
    refuse(store, "v8")
    refuse(store, "v9", ReplicaStatus.LOADING)
    assert found(store) is None
