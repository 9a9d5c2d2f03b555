import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.manifest import Lineage, VersionKind
from cluster.refs import VersionRef
from train_jobs import checkpoint, retention
from train_jobs.retention import Doomed, Kept

NOBODY: frozenset[int] = frozenset()

kept_lists = st.lists(
    st.builds(
        Kept,
        step=st.integers(1, 40),
        bytes=st.integers(0, 100),
        eval_loss=st.none() | st.floats(0, 10),
    ),
    unique_by=lambda kept: kept.step,
    max_size=12,
)
limits = {
    "checkpoints": kept_lists,
    "keep": st.integers(1, 5),
    "max_bytes": st.none() | st.integers(1, 500),
    "pinned": st.frozensets(st.integers(1, 40), max_size=4),
}


def steps_of(gone):
    return [going.step for going in gone]


def best_of(checkpoints):
    judged = [kept for kept in checkpoints if kept.eval_loss is not None]
    lowest = min((kept.eval_loss for kept in judged), default=None)
    return max((kept.step for kept in judged if kept.eval_loss == lowest), default=None)


@given(**limits)
def test_the_newest_the_best_and_the_pinned_never_go(checkpoints, keep, max_bytes, pinned):
    gone = set(steps_of(retention.doomed(checkpoints, keep=keep, max_bytes=max_bytes, pinned=pinned)))
    assert gone <= {kept.step for kept in checkpoints}
    assert not gone & pinned
    assert best_of(checkpoints) not in gone
    assert max((kept.step for kept in checkpoints), default=None) not in gone


@given(**limits)
def test_both_limits_hold_unless_all_that_is_left_is_protected(checkpoints, keep, max_bytes, pinned):
    gone = set(steps_of(retention.doomed(checkpoints, keep=keep, max_bytes=max_bytes, pinned=pinned)))
    left = [kept for kept in checkpoints if kept.step not in gone]
    newest = sorted(kept.step for kept in checkpoints)[-keep:]
    protected = pinned | set(newest[-1:]) | {best_of(checkpoints)}
    assert {kept.step for kept in left} - protected <= set(newest)
    if max_bytes is not None and sum(kept.bytes for kept in left) > max_bytes:
        assert {kept.step for kept in left} <= protected


@given(**limits)
def test_nothing_goes_that_need_not(checkpoints, keep, max_bytes, pinned):
    """Each one that went for its bytes was over the limit with all younger ones still there."""
    gone = retention.doomed(checkpoints, keep=keep, max_bytes=max_bytes, pinned=pinned)
    by_count = {going.step for going in gone if going.reason.startswith("older")}
    by_bytes = {going.step for going in gone} - by_count
    assert by_count <= set(sorted(kept.step for kept in checkpoints)[:-keep])
    for step in by_bytes:
        before = {s for s in by_bytes if s < step}
        there = sum(kept.bytes for kept in checkpoints if kept.step not in by_count | before)
        assert there > max_bytes


def test_reasons_are_told():
    checkpoints = [Kept(1, 5), Kept(2, 50, 0.1), Kept(3, 30, 0.2), Kept(4, 30), Kept(5, 30)]
    assert retention.doomed(checkpoints, keep=3, max_bytes=120, pinned=NOBODY) == [
        Doomed(1, 5, "older than the newest 3"),
        Doomed(3, 30, "140 bytes in all, more than 120"),
    ]


def commit(files, step, **metrics):
    checkpoint.commit(files, {"a": bytes(100)}, step=step, attempt=1, world_size=1, metrics=metrics)


def lines(files):
    text = files.storage.read_bytes(f"{files.directory}/retention.jsonl").decode()
    return [json.loads(line) for line in text.splitlines()]


def limited(spec, count=100, size=None):
    return spec.model_copy(update={"save_total_limit": count, "save_total_bytes": size})


def test_pruning_removes_and_journals_each_removal(files, spec):
    for step, loss in ((1, 0.9), (2, 0.1), (3, 0.5), (4, 0.4)):
        commit(files, step, eval_loss=loss)
    assert steps_of(retention.prune(files, limited(spec, 1), frozenset({3}))) == [1]
    assert checkpoint.committed_steps(files) == [2, 3, 4]
    assert [(line["step"], line["bytes"]) for line in lines(files)] == [(1, 100)]
    assert lines(files)[0]["reason"] == "older than the newest 1"
    assert lines(files)[0]["at"] > 1e9
    assert retention.prune(files, limited(spec, 1), frozenset({3})) == []


def test_pruning_by_bytes(files, spec):
    for step in (1, 2, 3, 4):
        commit(files, step)
    assert steps_of(retention.prune(files, limited(spec, size=250), NOBODY)) == [1, 2]
    assert retention.prune(files, limited(spec, size=10), NOBODY)[0].step == 3
    assert checkpoint.committed_steps(files) == [4]


def test_the_last_good_one_stays_when_a_newer_manifest_cannot_be_read(files, spec):
    for step in (1, 2, 3):
        commit(files, step)
    for step in (1, 3):
        files.storage.write_atomic(f"{files.checkpoints}/step_{step}/manifest.json", b"{")
    assert retention.prune(files, limited(spec, 1), NOBODY) == [Doomed(1, 0, "its manifest cannot be read")]
    assert checkpoint.discover(files).newest.manifest.step == 2


def test_nothing_is_read_when_nothing_can_be_over_a_limit(files, spec, monkeypatch):
    commit(files, 1)
    monkeypatch.setattr(checkpoint, "manifest_of", lambda *_: pytest.fail("read a manifest"))
    assert retention.prune(files, limited(spec, 1), NOBODY) == []


def test_room_is_made_oldest_first_and_no_more_than_needed(files, monkeypatch):
    for step in (1, 2, 3, 4):
        commit(files, step)
    monkeypatch.setattr(files.storage, "free_bytes", lambda: 1000)
    assert retention.make_room(files, 1000, NOBODY) == []
    gone = retention.make_room(files, 1150, frozenset({2}))
    assert steps_of(gone) == [1, 3]
    assert gone[0].reason == "a new checkpoint needs 1150 bytes and 1000 are free"
    assert steps_of(retention.make_room(files, 10**6, frozenset({2}))) == []
    assert checkpoint.committed_steps(files) == [2, 4]


def test_steps_that_a_version_came_from_are_pinned(store, tiny_dir):
    for label, run, step in (("v2", "run-1", 4), ("v3", "run-1", 8), ("v4", "run-2", 6)):
        store.publish(
            tiny_dir,
            VersionRef(model="tiny", version=label),
            kind=VersionKind.MERGED,
            source_label="tests",
            lineage=Lineage(run=run, step=step),
        )
    assert retention.pinned_steps(store, "run-1") == {4, 8}
    assert retention.pinned_steps(store, "run-3") == NOBODY


def test_discovery_always_finds_one_while_retention_takes_away(files, spec):
    commit(files, 1)
    over = threading.Event()
    failures = []

    def look():
        while not over.is_set():
            found = checkpoint.discover(files)
            if found.newest is None or any("differs" in sentence for sentence in found.skipped):
                failures.append(found)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for step in range(2, 80):
            commit(files, step)
            retention.prune(files, limited(spec, 1), NOBODY)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert failures == []
    assert checkpoint.committed_steps(files) == [79]
