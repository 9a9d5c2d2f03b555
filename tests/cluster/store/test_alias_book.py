import shutil
import threading

import pytest

from cluster.errors import ConflictError, NotFoundError, UsageError
from cluster.refs import parse_version_ref
from cluster.registry import ANY, ModelStore
from cluster.state.database import open_database
from tests.support.store_views import models_dir, told

V1, V2 = parse_version_ref("m:v1"), parse_version_ref("m:v2")


def test_a_move_is_compared_mirrored_and_told(store, publish):
    publish(store, "m:v1")
    publish(store, "m:v2", seed=1)

    store.set_alias("m", "candidate", "v2", expected=None, reason="try it")

    assert store.aliases("m") == {"candidate": "v2", "stable": "v1"}
    assert store.storage.read_bytes("models/m/aliases.json").decode().count("v2") == 1
    assert store.resolve("m@candidate") == V2
    with pytest.raises(ConflictError):
        store.set_alias("m", "candidate", "v1", expected=None, reason="too late")
    assert store.resolve("m@candidate") == V2
    last = store.history(V2)[-1]
    assert (last.subject, last.reason, last.detail) == (
        "m@candidate",
        "try it",
        {"from": None, "to": "v2"},
    )


def test_whatever_it_is_may_be_replaced_or_taken_away(store, publish):
    publish(store, "m:v1")
    store.set_alias("m", "prod", "v1", expected=ANY, reason="x")
    store.set_alias("m", "prod", None, expected=ANY, reason="x")

    assert store.aliases("m") == {"stable": "v1"}


def test_an_alias_never_names_what_is_not_there(store, publish):
    publish(store, "m:v1")

    with pytest.raises(NotFoundError):
        store.set_alias("m", "prod", "v2", expected=None, reason="x")
    with pytest.raises(UsageError):
        store.set_alias("m", "not a name", "v1", expected=None, reason="x")
    assert store.aliases("m") == {"stable": "v1"}


def test_of_many_movers_at_once_exactly_one_wins(store, publish):
    labels = [f"v{number}" for number in range(1, 7)]
    for seed, label in enumerate(labels):
        publish(store, f"m:{label}", seed=seed)
    gate, won = threading.Barrier(len(labels)), []

    def run(label: str) -> None:
        gate.wait()
        try:
            store.set_alias("m", "candidate", label, expected=None, reason=label)
            won.append(label)
        except ConflictError:
            pass

    threads = [threading.Thread(target=run, args=(label,)) for label in labels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert store.aliases("m")["candidate"] == won[0]


def test_a_lost_database_is_restored_from_the_mirror_with_events(store, publish, settings, tmp_path):
    publish(store, "m:v1")
    publish(store, "m:v2", seed=1)
    store.set_alias("m", "candidate", "v2", expected=None, reason="x")

    fresh = ModelStore(store.storage, open_database(f"sqlite:///{tmp_path}/new.db"), settings.home)

    assert fresh.resolve("m") == V1
    assert fresh.aliases("m") == {"candidate": "v2", "stable": "v1"}
    assert told(fresh) == ["alias.moved", "alias.moved"]
    fresh.database.dispose()


def test_restoring_leaves_out_versions_that_are_gone(store, publish, settings, tmp_path, caplog):
    publish(store, "m:v1")
    publish(store, "m:v2", seed=1)
    store.set_alias("m", "candidate", "v2", expected=None, reason="x")
    shutil.rmtree(models_dir(store) / "m" / "v2")

    fresh = ModelStore(store.storage, open_database(f"sqlite:///{tmp_path}/new.db"), settings.home)

    assert fresh.aliases("m") == {"stable": "v1"}
    assert "m@candidate" in caplog.text
    fresh.database.dispose()


def test_aliases_that_were_taken_away_do_not_come_back(store, publish):
    publish(store, "m:v1")
    mirror = store.storage.read_bytes("models/m/aliases.json")
    store.set_alias("m", "stable", None, expected="v1", reason="x")
    store.storage.write_atomic("models/m/aliases.json", mirror)

    assert store.aliases("m") == {}


def test_a_damaged_mirror_restores_nothing(store, publish, settings, tmp_path):
    publish(store, "m:v1")
    store.storage.write_atomic("models/m/aliases.json", b"{")

    fresh = ModelStore(store.storage, open_database(f"sqlite:///{tmp_path}/new.db"), settings.home)

    assert fresh.aliases("m") == {}
    fresh.database.dispose()
