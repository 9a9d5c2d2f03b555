import array
import errno
import json
import math
import random
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import ConflictError, IntegrityError, StorageError
from cluster.retry import Retry
from cluster.storage import Storage
from tests.support.disks import small_disks
from tests.support.s3 import s3_root
from train_jobs import checkpoint, retention
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


def _gone(file):
    file.unlink()


def _empty(file):
    file.write_bytes(b"")


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-1])


def _longer(file):
    file.write_bytes(file.read_bytes() + b"x")


def _flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _torn(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


@pytest.mark.parametrize("harm", [_gone, _empty, _truncated, _longer, _flipped, _torn])
@pytest.mark.parametrize("name", CONTENTS)
def test_a_harmed_file_is_told_by_name_and_the_checkpoint_before_is_used(files, harm, name):
    commit(files, 5)
    commit(files, 10)
    harm(path(files, 10, name))
    found = checkpoint.discover(files)
    assert found.newest.manifest.step == 5
    assert len(found.skipped) == 1
    assert "step_10" in found.skipped[0]
    assert name in found.skipped[0]


def _says(**fields):
    def harm(manifest):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **fields}))

    return harm


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (_gone, "never committed"),
        (_empty, "cannot be read"),
        (_torn, "cannot be read"),
        (_says(step=11), "holds step 11 of the run `run-1`"),
        (_says(run="run-2"), "holds step 10 of the run `run-2`"),
    ],
)
def test_a_manifest_that_does_not_fit_is_skipped_with_a_sentence(files, harm, told):
    commit(files, 5)
    commit(files, 10)
    harm(path(files, 10, "manifest.json"))
    found = checkpoint.discover(files)
    assert found.newest.manifest.step == 5
    assert len(found.skipped) == 1
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
    _flipped(path(files, 10))
    commit(files, 10, {"a": b"new"}, attempt=2)
    found = checkpoint.discover(files)
    assert found.newest.manifest.attempt == 2
    assert checkpoint.read(files.storage, found.newest) == {"a": b"new"}


def test_only_what_earlier_attempts_left_half_written_is_swept(files):
    commit(files, 5)
    for name in (
        "step_8",
        ".staging_attempt_1_step_10",
        ".staging_attempt_1_step_9.former",
        ".staging_attempt_2_step_10",
        ".staging_attempt_3_step_15",
        "notes",
    ):
        files.storage.write_atomic(f"{files.checkpoints}/{name}/adapter_model.safetensors", b"half")
    assert checkpoint.discover(files).newest.manifest.step == 5
    checkpoint.sweep(files, attempt=2)
    assert files.storage.list_dirs(files.checkpoints) == [
        ".staging_attempt_2_step_10",
        ".staging_attempt_3_step_15",
        "notes",
        "step_5",
    ]


def test_an_attempt_that_was_swept_while_writing_commits_nothing(files, monkeypatch):
    write, names = files.storage.write_atomic, list(CONTENTS)

    def swept_in_between(path, data):
        if path.endswith(names[-1]):
            checkpoint.sweep(files, attempt=2)
        return write(path, data)

    monkeypatch.setattr(files.storage, "write_atomic", swept_in_between)
    with pytest.raises(IntegrityError, match=names[0]):
        commit(files, 10, attempt=1)
    assert files.storage.list_dirs(files.checkpoints) == []


def test_an_earlier_attempt_cannot_replace_what_a_later_one_has_done(files):
    commit(files, 10, {"a": b"new"}, attempt=3)
    with pytest.raises(ConflictError) as caught:
        commit(files, 10, attempt=2)
    assert caught.value.code == "train.attempt_overtaken"
    assert checkpoint.read(files.storage, checkpoint.discover(files).newest) == {"a": b"new"}


def test_views_of_other_memory_are_written_as_their_bytes(files):
    numbers = array.array("d", range(1_000_000))
    done = commit(files, 3, {"view": memoryview(numbers), "none": b""})
    assert done.manifest.files["view"].size == 8_000_000
    assert checkpoint.read(files.storage, checkpoint.discover(files).newest) == {
        "view": numbers.tobytes(),
        "none": b"",
    }


def test_a_metric_that_is_no_number_does_not_make_the_manifest_unreadable(files):
    metrics = {"loss": math.nan, "eval_loss": 0.5}
    checkpoint.commit(files, CONTENTS, step=1, attempt=1, world_size=1, metrics=metrics)
    assert checkpoint.discover(files).newest.manifest.metrics == {"eval_loss": 0.5}


def test_discovery_reads_nothing_older_than_what_it_finds(files, monkeypatch):
    for step in range(1, 6):
        commit(files, step)
    path(files, 5, "manifest.json").unlink()
    read, opened = files.storage.open_input, []
    monkeypatch.setattr(files.storage, "open_input", lambda path: opened.append(path) or read(path))
    assert checkpoint.discover(files).newest.manifest.step == 4
    assert {name.split("/")[3] for name in opened} == {"step_5", "step_4"}


@pytest.mark.parametrize(("before", "found"), [(None, 9), (10, 9), (9, 6), (3, None)])
def test_discovery_below_a_step(files, before, found):
    for step in (3, 6, 9):
        commit(files, step)
    newest = checkpoint.discover(files, before=before).newest
    assert (newest and newest.manifest.step) == found


def test_one_that_goes_while_it_is_examined_is_not_held_against_the_run(files, monkeypatch):
    """Between the listing and the reading a newer one is committed and all that was listed goes."""
    for step in (1, 2):
        commit(files, step)
    read, calls = files.storage.read_bytes, []

    def meanwhile(path):
        calls.append(path)
        if len(calls) == 1:
            commit(files, 3)
            for step in (1, 2):
                checkpoint.remove_step(files, step)
        return read(path)

    monkeypatch.setattr(files.storage, "read_bytes", meanwhile)
    found = checkpoint.discover(files)
    assert found.newest.manifest.step == 3
    assert found.skipped == []


class Clock:
    """Time that passes only in sleep."""

    def __init__(self):
        self.now, self.slept = 0.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def retry(self, deadline_s):
        return Retry(deadline_s=deadline_s, clock=lambda: self.now, sleep=self.sleep)


def _failing(monkeypatch, method, failures):
    """Make a method of Storage fail for its first calls; returns the list of all paths it was called with."""
    real, calls = getattr(Storage, method), []

    def act(self, path, *rest):
        calls.append(path)
        if len(calls) <= failures:
            raise StorageError("The server does not answer.", code="storage.failed", retryable=True)
        return real(self, path, *rest)

    monkeypatch.setattr(Storage, method, act)
    return calls


@pytest.mark.parametrize("method", ["write_atomic", "rename", "delete_dir", "exists", "size"])
def test_passing_failures_are_tried_again_wherever_they_strike(files, monkeypatch, method):
    commit(files, 10, {"old": b"1"})
    clock = Clock()
    _failing(monkeypatch, method, 3)
    retried = checkpoint.commit(
        files, CONTENTS, step=10, attempt=1, world_size=2, metrics={}, retry=clock.retry(60)
    )
    assert clock.slept == [1, 2, 4]
    found = checkpoint.discover(files)
    assert found.newest == retried
    assert checkpoint.read(files.storage, found.newest) == CONTENTS
    assert files.storage.list_dirs(files.checkpoints) == ["step_10"]


def test_a_retry_goes_on_with_the_file_that_failed(files, monkeypatch):
    real, calls = Storage.write_atomic, []

    def write(self, path, data):
        calls.append(path.rsplit("/", 1)[1])
        if len(calls) in (2, 3):
            raise StorageError("gone", code="storage.failed", retryable=True)
        return real(self, path, data)

    monkeypatch.setattr(Storage, "write_atomic", write)
    retry = Clock().retry(60)
    checkpoint.commit(files, CONTENTS, step=1, attempt=1, world_size=1, metrics={}, retry=retry)
    first, second = CONTENTS
    assert calls == [first, second, second, second, "manifest.json"]


def test_it_gives_up_at_the_deadline_and_leaves_nothing_behind(files, monkeypatch):
    commit(files, 5)
    clock = Clock()
    calls = _failing(monkeypatch, "write_atomic", 10**6)
    with pytest.raises(StorageError, match="Tried 8 times in 123 s") as caught:
        checkpoint.commit(
            files, CONTENTS, step=10, attempt=1, world_size=2, metrics={}, retry=clock.retry(180)
        )
    assert clock.slept == [1, 2, 4, 8, 16, 32, 60]
    assert caught.value.retryable
    assert len(calls) == 8
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
        assert files.storage.list_files(f"{files.checkpoints}/step_10") == sorted(
            [*CONTENTS, "manifest.json"]
        )
        files.storage.delete_file(f"{files.checkpoints}/step_10/manifest.json")
        assert checkpoint.committed_steps(files) == [5]
        found = checkpoint.discover(files)
        assert found.newest.manifest.step == 5
        assert "step_10" in found.skipped[0]
        assert checkpoint.read(files.storage, found.newest) == CONTENTS
        checkpoint.sweep(files, attempt=2)
        assert files.storage.list_dirs(files.checkpoints) == ["step_5"]
        commit(files, 5, {"a": b"new"}, attempt=2)
        assert checkpoint.read(files.storage, checkpoint.discover(files).newest) == {"a": b"new"}
        checkpoint.remove_step(files, 5)
        assert checkpoint.committed_steps(files) == []


def test_on_an_object_store_what_a_living_attempt_writes_in_place_is_not_swept(monkeypatch):
    with s3_root(monkeypatch) as url:
        files = RunFiles(Storage(url), "run-1")
        write = Storage.write_atomic

        def swept_in_between(self, path, data):
            checkpoint.sweep(files, attempt=2)
            return write(self, path, data)

        monkeypatch.setattr(Storage, "write_atomic", swept_in_between)
        commit(files, 10, attempt=2)
        assert checkpoint.discover(files).newest.manifest.step == 10
        with pytest.raises(IntegrityError):
            commit(files, 20, attempt=1)
        monkeypatch.undo()


def test_a_checkpoint_that_a_small_disk_cannot_hold_is_refused_before_a_byte_is_written(tmp_path):
    with small_disks(tmp_path) as mount:
        files = RunFiles(Storage(str(mount("size=66m"))), "run-1")
        commit(files, 5)
        files.storage.write_atomic = lambda *_: pytest.fail("written")
        with pytest.raises(StorageError) as caught:
            commit(files, 10, {"a": b"1", "adapter_model.safetensors": bytes(4_000_000)})
        assert caught.value.code == "storage.full"
        assert str(4_000_001 + checkpoint.SLACK) in caught.value.message
        assert str(files.storage.free_bytes()) in caught.value.message
        assert files.storage.list_dirs(files.checkpoints) == ["step_5"]
        assert checkpoint.discover(files).newest.manifest.step == 5


def test_older_ones_make_room_for_a_new_one(tmp_path):
    with small_disks(tmp_path) as mount:
        files = RunFiles(Storage(str(mount("size=72m"))), "run-1")
        large = {"adapter_model.safetensors": bytes(3_000_000)}
        for step in (1, 2):
            commit(files, step, large)
        checkpoint.commit(
            files,
            large,
            step=3,
            attempt=1,
            world_size=1,
            metrics={},
            make_room=lambda needed: retention.make_room(files, needed, frozenset()),
        )
        assert checkpoint.committed_steps(files) == [2, 3]


def test_a_disk_that_fills_up_in_spite_of_the_check_leaves_the_one_before(tmp_path, monkeypatch):
    with small_disks(tmp_path) as mount:
        files = RunFiles(Storage(str(mount("size=1m"))), "run-1")
        monkeypatch.setattr(Storage, "free_bytes", lambda _: 10**12)
        commit(files, 5)
        with pytest.raises(StorageError) as caught:
            commit(files, 10, {"a": b"1", "adapter_model.safetensors": bytes(2_000_000)})
        assert caught.value.code == "storage.full"
        assert files.storage.list_dirs(files.checkpoints) == ["step_5"]
        assert checkpoint.discover(files).newest.manifest.step == 5


_KILLED = """
import itertools, os, sys
from cluster.storage import Storage
from train_jobs import checkpoint, retention
from train_jobs.run_files import RunFiles

files, attempt = RunFiles(Storage(sys.argv[1]), "run-1"), int(sys.argv[2])
checkpoint.sweep(files, attempt)
found = checkpoint.discover(files)
assert found.skipped == [], found.skipped
start = found.newest.manifest.step if found.newest else 0
print(start, flush=True)
for step in itertools.count(start + 1):
    contents = {f"file_{n}": step.to_bytes(8) * 40_000 for n in range(4)}
    checkpoint.commit(files, contents, step=step, attempt=attempt, world_size=1, metrics={})
    for old in checkpoint.committed_steps(files)[:-2]:
        checkpoint.remove_step(files, old)
"""


def test_killed_at_any_moment_the_newest_whole_checkpoint_is_found(files, settings):
    """SIGKILL in the middle of commits: each life goes on from what verifies, and nothing half counts."""
    source, last, cut = random.Random(7), 0, 0
    for attempt in range(1, 17):
        command = [sys.executable, "-c", _KILLED, settings.root, str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert int(process.stdout.readline()) == last
                time.sleep(source.uniform(0.0, 0.25) + 0.05 * (attempt == 1))
            finally:
                process.kill()
        cut += any(name.startswith(".") for name in files.storage.list_dirs(files.checkpoints))
        found = checkpoint.discover(files).newest
        step = found.manifest.step if found else 0
        assert step >= last
        if found:
            contents = checkpoint.read(files.storage, found)
            assert contents == {f"file_{n}": step.to_bytes(8) * 40_000 for n in range(4)}
        last = step
    assert last > 0
    assert cut > 0
    checkpoint.sweep(files, 17)
    assert files.storage.list_dirs(files.checkpoints) == [
        f"step_{step}" for step in checkpoint.committed_steps(files)
    ]
