import array
import errno
import hashlib
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError, NotFoundError, StorageError
from cluster.storage import Storage, make_read_only, make_writable


@pytest.fixture(params=["path", "file-url", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        return Storage(request.getfixturevalue("s3_url"))
    root = tmp_path / "root"
    return Storage(str(root) if request.param == "path" else f"file://{root}")


def test_what_was_written_is_read_back_everywhere(storage):
    storage.write_atomic("a/b.bin", b"first")
    storage.write_atomic("a/b.bin", b"second")

    assert storage.read_bytes("a/b.bin") == b"second"
    assert storage.size("a/b.bin") == 6
    assert storage.exists("a/b.bin")
    assert storage.is_dir("a")
    assert storage.sha256("a/b.bin") == "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4"


def test_a_file_is_read_from_where_the_last_look_ended(storage):
    storage.append_line("a.jsonl", b"one")
    assert storage.read_from("a.jsonl", 0) == b"one\n"
    assert storage.read_from("a.jsonl", 4) == b""
    storage.append_line("a.jsonl", b"two")
    assert storage.read_from("a.jsonl", 4) == b"two\n"
    assert storage.read_from("a.jsonl", 100) == b""
    with pytest.raises(NotFoundError, match=r"none"):
        storage.read_from("none.jsonl", 0)


def test_listing_is_relative_sorted_and_empty_for_what_is_not_there(storage):
    for path in ("m/v2/x", "m/v1/y/z", "m/v1/a", "n/v1/b"):
        storage.write_atomic(path, b"1")

    assert storage.list_dirs("m") == ["v1", "v2"]
    assert storage.list_files("m/v1") == ["a", "y/z"]
    assert storage.list_files("m/v1", recursive=False) == ["a"]
    assert [name for name, _ in storage.list_modified("m/v1")] == ["a", "y"]
    assert storage.list_dirs("nothing") == storage.list_files("nothing") == []


def test_missing_files_are_not_found(storage):
    for call in (storage.read_bytes, storage.size, storage.sha256):
        with pytest.raises(NotFoundError, match=r"a/none"):
            call("a/none")
    assert not storage.exists("a/none")


def test_deleting_takes_all_below_and_may_be_repeated(storage):
    storage.write_atomic("m/v1/a", b"1")
    storage.write_atomic("m/v1/b/c", b"1")
    storage.write_atomic("m/v2", b"1")

    for _ in range(2):
        storage.delete_dir("m/v1")
        storage.delete_file("m/v2")

    assert not storage.exists("m/v1/a")
    assert not storage.exists("m/v1")
    assert not storage.exists("m/v2")


def test_files_go_up_and_directories_come_down_unchanged(storage, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))

    storage.upload_file(source, "m/v1/deep/weights")
    storage.download_dir("m/v1", tmp_path / "down")

    assert (tmp_path / "down" / "deep" / "weights").read_bytes() == source.read_bytes()


def test_a_storage_crosses_process_borders(storage):
    storage.write_atomic("a", b"1")

    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"1"


@given(parts=st.lists(st.sampled_from(["..", "a", "b.c"]), min_size=1, max_size=5))
def test_no_path_leaves_the_root(tmp_path_factory, parts):
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    path = "/".join(parts)

    if ".." in parts:
        with pytest.raises(StorageError, match="leaves the storage root"):
            storage.exists(path)
    else:
        assert not storage.exists(path)


def test_unknown_schemes_say_what_is_accepted():
    with pytest.raises(ConfigError) as caught:
        Storage("gopher://x/y")
    assert "file, s3" in caught.value.hint


def test_an_interrupted_atomic_write_keeps_the_old_bytes_and_no_scraps(tmp_path, monkeypatch):
    storage = Storage(str(tmp_path))
    storage.write_atomic("a", b"old")
    monkeypatch.setattr(os, "fsync", _interrupted)

    with pytest.raises(KeyboardInterrupt):
        storage.write_atomic("a", b"new")

    assert storage.read_bytes("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def _interrupted(_handle):
    raise KeyboardInterrupt


@pytest.mark.parametrize("act", ["write_atomic", "upload_file"])
def test_a_full_disk_is_named_as_such(small_disk, tmp_path, act):
    storage = Storage(str(small_disk("size=256k")))
    big = tmp_path / "big"
    big.write_bytes(bytes(1_000_000))

    with pytest.raises(StorageError) as caught:
        storage.write_atomic("a", big.read_bytes()) if act == "write_atomic" else storage.upload_file(
            big, "a"
        )

    assert caught.value.code == "storage.full"
    assert caught.value.retryable
    assert "linnet models gc" in caught.value.hint


def test_a_full_disk_at_the_target_of_a_download_names_the_target(small_disk, tmp_path):
    storage, target = Storage(str(tmp_path / "root")), small_disk("size=256k")
    storage.write_atomic("v1/big", bytes(1_000_000))

    with pytest.raises(StorageError) as caught:
        storage.download_dir("v1", target / "copy")

    assert caught.value.code == "storage.full"
    assert str(target) in caught.value.message


def test_free_room_is_known_before_the_root_exists_and_never_on_s3(tmp_path, s3_url):
    assert (Storage(str(tmp_path / "not" / "yet")).free_bytes() or 0) > 0
    assert Storage(s3_url).free_bytes() is None


def test_an_object_store_has_no_local_path(s3_url):
    with pytest.raises(StorageError) as caught:
        Storage(s3_url).local_path("a")
    assert caught.value.code == "storage.not_local"


@pytest.mark.parametrize("query", ["regoin=us-east-1", "connect_timeout=soon", "scheme=carrier-pigeon"])
def test_an_option_that_s3_does_not_take_is_a_config_error(query):
    with pytest.raises(ConfigError) as caught:
        Storage(f"s3://bucket/x?{query}").exists("a")
    assert caught.value.code == "storage.option"


def test_a_server_that_is_not_there_is_a_storage_error(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    storage = Storage(
        "s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1&connect_timeout=1"
    )

    with pytest.raises(StorageError) as caught:
        storage.read_bytes("a")

    assert caught.value.retryable


def test_read_only_directories_lose_every_write_bit_and_get_them_back(tmp_path):
    inner = tmp_path / "v1" / "deep"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"1")

    make_read_only(tmp_path / "v1")
    modes = [path.stat().st_mode & 0o222 for path in (tmp_path / "v1", inner, inner / "file")]
    make_writable(tmp_path / "v1")

    assert modes == [0, 0, 0]
    assert inner.stat().st_mode & 0o200


def test_a_denied_write_says_so(tmp_path, monkeypatch):
    def denied(*_args: object) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "replace", denied)

    with pytest.raises(StorageError) as caught:
        Storage(str(tmp_path)).write_atomic("a", b"1")

    assert caught.value.code == "storage.denied"


@pytest.mark.parametrize("size", [0, 1, 4 * 1024**2, 9 * 1024**2 + 1])
def test_a_write_tells_the_hash_of_bytes_and_of_views_alike(storage, size):
    data = os.urandom(size)

    assert storage.write_atomic("a", data) == hashlib.sha256(data).hexdigest() == storage.sha256("a")
    assert storage.write_atomic("b", memoryview(data)) == storage.sha256("b")
    assert storage.read_bytes("b") == data


def test_a_view_of_wider_items_is_written_as_its_bytes(storage):
    numbers = array.array("d", range(10))

    storage.write_atomic("a", memoryview(numbers))

    assert storage.read_bytes("a") == numbers.tobytes()


def test_directories_are_listed_by_a_file_that_they_hold(storage):
    for path in ("m/v1/x", "m/v2/mark", "m/v3/deep/mark", "m/mark", "m/v0/mark"):
        storage.write_atomic(path, b"1")

    assert storage.list_dirs_with("m", "mark") == ["v0", "v2"]
    assert storage.list_dirs_with("nothing", "mark") == []
