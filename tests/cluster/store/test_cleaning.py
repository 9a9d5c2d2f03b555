import pytest

from cluster.errors import ConflictError, NotFoundError
from cluster.manifest import VersionKind
from cluster.refs import parse_version_ref
from cluster.registry import ModelStore
from cluster.state import policies, replicas
from cluster.state.replicas import ReplicaStatus
from cluster.store import publishing
from cluster.traffic import TrafficPolicy
from tests.support.store_views import models_dir, names
from tests.support.version_files import write_adapter

V2 = parse_version_ref("m:v2")


@pytest.fixture
def two(store, publish) -> ModelStore:
    publish(store, "m:v1")
    publish(store, "m:v2", seed=1)
    return store


def test_a_version_that_nobody_needs_goes_with_an_event(two):
    two.remove(V2, reason="blunt")

    assert [manifest.ref for manifest in two.versions()] == ["m:v1"]
    assert names(models_dir(two) / "m") == ["aliases.json", "v1"]
    assert [(row.kind, row.reason) for row in two.history(V2)][-1] == ("version.removed", "blunt")
    with pytest.raises(NotFoundError):
        two.remove(V2, reason="again")


def refused(store: ModelStore, holder: str) -> None:
    with pytest.raises(ConflictError) as caught:
        store.remove(V2, reason="x")
    assert holder in caught.value.message
    assert store.holders(V2)
    assert store.verify(V2) == []


def test_an_aliased_version_stays(two):
    two.set_alias("m", "prod", "v2", expected=None, reason="x")
    refused(two, "m@prod")


@pytest.mark.parametrize(
    ("stable", "candidate", "weight"), [("v1", "v2", 0.0), ("v2", "v1", 100.0), ("v2", None, 0)]
)
def test_a_version_in_the_traffic_policy_stays(two, stable, candidate, weight):
    with two.database.transaction() as session:
        policies.put(
            session,
            TrafficPolicy(model="m", revision=1, stable=stable, candidate=candidate, weight=weight),
        )
    refused(two, "traffic policy of m")


def test_a_served_version_stays_until_its_replica_is_gone(two):
    with two.database.transaction() as session:
        replicas.report(session, replica="r-1", model="m", version="v2", status=ReplicaStatus.SERVING)
    refused(two, "replica r-1")

    with two.database.transaction() as session:
        replicas.forget(session, "r-1")
    two.remove(V2, reason="x")


def test_the_base_of_an_adapter_stays(two, tmp_path):
    adapter = write_adapter(tmp_path / "a")
    two.publish(
        adapter, parse_version_ref("m:a1"), kind=VersionKind.ADAPTER, source_label="run", parent="m:v2"
    )
    refused(two, "adapter m:a1")


def test_uncommitted_leftovers_go_and_work_in_progress_stays(store, publish):
    publish(store, "m:v1")
    model = models_dir(store) / "m"
    (model / "v7").mkdir()
    (model / "v7" / "weights").write_bytes(b"1")
    (models_dir(store) / "empty" / "v1").mkdir(parents=True)
    ours = model / publishing.staging_name("v8")
    ours.mkdir()

    assert sorted(store.gc(dry_run=True)) == ["models/empty", "models/m/v7"]
    assert (model / "v7").exists()
    store.gc(dry_run=False)
    assert names(model) == sorted([ours.name, "aliases.json", "v1"])
    assert not (models_dir(store) / "empty").exists()
