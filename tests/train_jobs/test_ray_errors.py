from cluster.errors import StorageError
from train_jobs.ray_errors import brief, unwrap


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
