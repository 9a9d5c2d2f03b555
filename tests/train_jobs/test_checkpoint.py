import errno
import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import StorageError
from cluster.storage import Storage
from tests.support.disks import small_disks
from tests.support.s3 import s3_root
from train_jobs import checkpoint
from train_jobs.run_files import RunFiles

CONTENTS = {"adapter_model.safetensors": bytes(range(256)) * 8, "trainer_state.json": b'{"step": 3}'}


def commit(files, step, contents=CONTENTS, attempt=1):
    return checkpoint.commit(files, contents, step=step, attempt=attempt, world_size=2, metrics={"loss": 0.5})


def path(files, step, name="adapter_model.safetensors"):
    return files.storage.local_path(f"{files.checkpoints}/step_{step}/{name}")


def test_what_was_committed_is_found_and_reads_back(files):
    commit(files, 3)
    found = checkpoint.discover(files)
    assert found.newest.manifest.step == 3
    assert found.newest.manifest.world_size == 2
    assert found.skipped == []
    assert checkpoint.read(files.storage, found.newest) == CONTENTS


def test_a_new_run_has_nothing_to_discover(files):
    assert checkpoint.discover(files) == checkpoint.Discovery(None, [])


def test_the_newest_is_by_number_not_by_name(files):
    for step in (2, 10, 9):
        commit(files, step)
    assert checkpoint.discover(files).newest.manifest.step == 10
    assert checkpoint.committed_steps(files) == [2, 9, 10]


def _no_manifest(files):
    path(files, 10, "manifest.json").unlink()


def _truncated(files):
    path(files, 10).write_bytes(CONTENTS["adapter_model.safetensors"][:-1])


def _flipped(files):
    data = bytearray(CONTENTS["adapter_model.safetensors"])
    data[100] ^= 1
    path(files, 10).write_bytes(data)


def _missing_file(files):
    path(files, 10).unlink()


def _manifest_cut(files):
    manifest = path(files, 10, "manifest.json")
    manifest.write_bytes(manifest.read_bytes()[:40])


def _other_step(files):
    manifest = path(files, 10, "manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "step": 11}))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_no_manifest, "never committed"),
        (_truncated, "2047 bytes"),
        (_flipped, "sha256"),
        (_missing_file, "missing"),
        (_manifest_cut, "cannot be read"),
        (_other_step, "holds step 11"),
    ],
)
def test_a_bad_checkpoint_is_skipped_with_a_sentence_and_the_one_before_is_used(files, harm, told):
    commit(files, 5)
    commit(files, 10)
    harm(files)
    found = checkpoint.discover(files)
    assert found.newest.manifest.step == 5
    assert len(found.skipped) == 1
    assert "step_10" in found.skipped[0]
    assert told in found.skipped[0]


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)
@given(byte=st.integers(0, 2047), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_weights_is_seen(files, byte, bit):
    commit(files, 10)
    data = bytearray(CONTENTS["adapter_model.safetensors"])
    data[byte] ^= 1 << bit
    path(files, 10).write_bytes(data)
    found = checkpoint.discover(files)
    assert found.newest is None
    assert len(found.skipped) == 1


def test_a_step_done_again_replaces_what_was_there(files):
    commit(files, 10)
    _flipped(files)
    commit(files, 10, {"a": b"new"}, attempt=2)
    found = checkpoint.discover(files)
    assert found.newest.manifest.attempt == 2
    assert checkpoint.read(files.storage, found.newest) == {"a": b"new"}


def test_a_crash_while_writing_leaves_nothing_that_is_read_and_is_swept(files):
    commit(files, 5)
    files.storage.write_atomic(f"{files.checkpoints}/.staging_step_10/adapter_model.safetensors", b"half")
    files.storage.write_atomic(f"{files.checkpoints}/step_8/adapter_model.safetensors", b"half")
    assert checkpoint.discover(files).newest.manifest.step == 5
    checkpoint.sweep(files)
    assert files.storage.list_dirs(files.checkpoints) == ["step_5"]


@pytest.mark.parametrize("failing_call", [1, 2, 3, 4])
def test_a_full_disk_is_told_and_leaves_nothing_half_written(files, monkeypatch, failing_call):
    import os

    commit(files, 5)
    calls, real = [], os.fsync

    def fsync(handle):
        calls.append(handle)
        if len(calls) == failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr("cluster.storage.os.fsync", fsync)
    with pytest.raises(StorageError) as caught:
        commit(files, 10)
    assert caught.value.code == "storage.full"
    assert files.storage.list_dirs(files.checkpoints) == ["step_5"]
    monkeypatch.undo()
    commit(files, 10)
    assert checkpoint.discover(files).newest.manifest.step == 10


def test_only_the_newest_are_kept(files):
    for step in (1, 2, 3, 4):
        commit(files, step)
    assert checkpoint.prune(files, keep=2) == [1, 2]
    assert checkpoint.committed_steps(files) == [3, 4]
    assert checkpoint.prune(files, keep=2) == []


def test_checkpoints_of_another_run_are_not_taken(files, settings):
    commit(files, 3)
    other = RunFiles(Storage(settings.root), "run-2")
    files.storage.make_dirs(other.checkpoints)
    path(files, 3).parent.rename(files.storage.local_path(f"{other.checkpoints}/step_3"))
    found = checkpoint.discover(other)
    assert found.newest is None
    assert "`run-1`" in found.skipped[0]


def test_on_an_object_store_the_manifest_alone_makes_a_checkpoint_exist(monkeypatch):
    with s3_root(monkeypatch) as url:
        files = RunFiles(Storage(url), "run-1")
        commit(files, 5)
        commit(files, 10)
        files.storage.delete_file(f"{files.checkpoints}/step_10/manifest.json")
        found = checkpoint.discover(files)
        assert found.newest.manifest.step == 5
        assert "step_10" in found.skipped[0]
        assert checkpoint.read(files.storage, found.newest) == CONTENTS
        checkpoint.sweep(files)
        commit(files, 15)
        assert checkpoint.prune(files, keep=1) == [5]
        assert files.storage.list_dirs(files.checkpoints) == ["step_15"]


def test_a_checkpoint_that_a_small_disk_cannot_hold_leaves_the_one_before(tmp_path):
    with small_disks(tmp_path) as mount:
        files = RunFiles(Storage(str(mount("size=256k"))), "run-1")
        commit(files, 5)
        with pytest.raises(StorageError) as caught:
            commit(files, 10, {"a": b"1", "adapter_model.safetensors": bytes(400_000)})
        assert caught.value.code == "storage.full"
        assert files.storage.list_dirs(files.checkpoints) == ["step_5"]
        assert checkpoint.discover(files).newest.manifest.step == 5
