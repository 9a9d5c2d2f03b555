import os
from pathlib import Path

import pytest

from cluster.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from cluster.refs import parse_version_ref
from cluster.registry import ModelStore
from cluster.state.database import open_database
from cluster.storage import Storage
from cluster.store.staging import staging_name

V1 = parse_version_ref("m:v1")


def test_publish_verify_and_load_through_an_object_store(s3_store, publish):
    made = publish(s3_store, "m:v1")

    assert s3_store.manifest(V1) == made
    assert s3_store.resolve("m") == V1
    assert s3_store.verify(V1) == []
    assert [manifest.ref for manifest in s3_store.versions()] == ["m:v1"]
    directory = s3_store.local_dir(V1)
    names = sorted(path.name for path in directory.iterdir())
    assert names == sorted([*made.files, "manifest.json"])
    assert all(path.stat().st_mode & 0o222 == 0 for path in directory.iterdir())
    assert s3_store.storage.list_files("models/m") == [
        "aliases.json",
        *(f"v1/{name}" for name in names),
    ]


def test_a_corrupt_object_is_named_and_never_handed_out(s3_store, publish, settings):
    publish(s3_store, "m:v1")
    raw = bytearray(s3_store.storage.read_bytes("models/m/v1/model.safetensors"))
    raw[-1] ^= 1
    s3_store.storage.write_atomic("models/m/v1/model.safetensors", bytes(raw))

    assert [problem.path for problem in s3_store.verify(V1)] == ["model.safetensors"]
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        s3_store.local_dir(V1)
    assert [path for path in (settings.home / "cache").rglob("*") if path.is_file()] == []


def test_a_version_is_downloaded_once_and_again_when_the_copy_is_damaged(s3_store, publish, monkeypatch):
    publish(s3_store, "m:v1")
    downloads: list[str] = []
    real = Storage.download_dir
    monkeypatch.setattr(
        Storage, "download_dir", lambda self, path, target: downloads.append(path) or real(self, path, target)
    )

    directory = s3_store.local_dir(V1)
    assert s3_store.local_dir(V1) == directory
    assert len(downloads) == 1

    damaged = directory / "config.json"
    os.chmod(damaged, 0o644)
    damaged.write_text("{}")
    assert s3_store.local_dir(V1) == directory
    assert len(downloads) == 2
    assert "architectures" in damaged.read_text()


def test_two_roots_never_share_a_copy(settings, s3_store, publish, monkeypatch):
    other_url = s3_store.storage.url.replace("/prefix", "/other")
    other = ModelStore(Storage(other_url), s3_store.database, settings.home)
    publish(s3_store, "m:v1", seed=1)
    publish(other, "m:v1", seed=2)

    assert s3_store.local_dir(V1) != other.local_dir(V1)


@pytest.mark.parametrize("moment", ["upload_file", "write_atomic"])
def test_an_interrupted_upload_leaves_no_object(s3_store, publish, monkeypatch, moment):
    real = getattr(Storage, moment)

    def broken(self: Storage, *args: object) -> None:
        if any(str(arg).endswith(("tokenizer.json", "manifest.json")) for arg in args):
            raise KeyboardInterrupt
        real(self, *args)

    monkeypatch.setattr(Storage, moment, broken)
    with pytest.raises(KeyboardInterrupt):
        publish(s3_store, "m:v1")
    monkeypatch.undo()

    assert s3_store.models() == []
    assert not s3_store.storage.exists("models/m/v1")
    assert s3_store.storage.list_files("models/m") == []


def test_a_second_publisher_gives_way_to_a_living_one(s3_store, publish):
    marker = f"models/m/{staging_name('v1')}"
    s3_store.storage.write_atomic(marker, b"")

    with pytest.raises(ConflictError) as caught:
        publish(s3_store, "m:v1")
    assert caught.value.code == "models.being_published"
    assert caught.value.retryable

    s3_store.storage.delete_file(marker)
    publish(s3_store, "m:v1")
    with pytest.raises(ConflictError) as caught:
        publish(s3_store, "m:v1", seed=1)
    assert caught.value.code == "models.version_exists"
    assert s3_store.verify(V1) == []


def test_leftovers_of_a_dead_publisher_are_swept_and_living_ones_stay(s3_store, publish):
    publish(s3_store, "m:v1")
    s3_store.storage.write_atomic("models/m/v2/model.safetensors", b"half")
    s3_store.storage.write_atomic("models/m/v3/model.safetensors", b"half")
    s3_store.storage.write_atomic(f"models/m/{staging_name('v3')}", b"")

    assert s3_store.gc(dry_run=False) == ["models/m/v2"]
    assert s3_store.storage.list_dirs("models/m") == ["v1", "v3"]


def test_removal_takes_the_objects_and_the_copy_goes_at_the_next_sweep(s3_store, publish):
    publish(s3_store, "m:v1")
    publish(s3_store, "m:v2", seed=1)
    v2 = parse_version_ref("m:v2")
    copy = s3_store.local_dir(v2)

    s3_store.remove(v2, reason="x")

    with pytest.raises(NotFoundError):
        s3_store.local_dir(v2)
    assert s3_store.storage.list_dirs("models/m") == ["v1"]
    assert s3_store.gc(dry_run=False) == [str(copy)]
    assert not copy.exists()


def test_too_small_a_cache_disk_is_refused_and_left_empty(settings, s3_url, s3_store, publish, small_disk):
    publish(s3_store, "m:v1", rows=100_000)
    home: Path = small_disk("size=2m")
    cramped = ModelStore(Storage(s3_url), open_database(settings.state_url), home)

    with pytest.raises(StorageError) as caught:
        cramped.local_dir(V1)

    assert caught.value.code == "storage.full"
    assert list(home.rglob("*")) == []
