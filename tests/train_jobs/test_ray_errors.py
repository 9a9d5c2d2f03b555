from cluster.errors import StorageError
from train_jobs.ray_errors import brief, in_one_sentence, unwrap


def test_our_error_is_found_inside_rays_wrappings():
    from ray.exceptions import RayTaskError
    from ray.train.v2.api.exceptions import WorkerGroupError

    ours = StorageError("full", code="storage.full")
    task = RayTaskError("f", "traceback", ours)
    assert unwrap(ours) is ours
    assert unwrap(task) is ours
    assert unwrap(task.as_instanceof_cause()) is ours
    assert unwrap(WorkerGroupError("x", {0: ValueError("y"), 1: task})) is ours


def test_a_chained_cause_is_found():
    ours = StorageError("full")
    outer = RuntimeError("outer")
    outer.__cause__ = ours
    assert unwrap(outer) is ours


def test_what_is_not_ours_is_not_found_and_is_told_briefly():
    assert unwrap(ValueError("x")) is None
    assert brief(ValueError("first\n  last line\n")) == "ValueError: last line"


def test_an_error_is_told_with_its_causes_and_nothing_twice():
    disk = OSError(28, "No space left on device")
    full = StorageError("The disk is full.", code="storage.full")
    full.__cause__ = disk
    again = StorageError("The disk is full. Tried 5 times.", code="storage.full")
    again.__cause__ = full
    told = "storage.full: The disk is full. Tried 5 times. From OSError: [Errno 28] No space left on device"
    assert in_one_sentence(again) == told


def test_an_error_that_says_nothing_and_one_that_causes_itself_have_an_end():
    turning = ValueError("")
    turning.__cause__ = turning
    assert in_one_sentence(turning) == "ValueError: "
    assert len(in_one_sentence(RuntimeError("x" * 10_000))) < 700
