"""What we lean on in Ray Train, for the version that it holds for."""

import pytest
import ray
from ray.train.v2._internal.callbacks.backend_setup import BackendSetupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from train_jobs.formation.ray_train import FormationConfig, RunIsOverError, keep_survivors


class Group:
    """Fails to replace as often as it is told to."""

    def __init__(self, failures):
        self.failures, self.replaced = failures, []

    def replace_replica_group(self, index):
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a survivor died")
        self.replaced.append(index)


def test_it_holds_for_this_ray():
    assert ray.__version__.startswith("2.60.")
    assert callable(WorkerGroup.replace_replica_group)
    assert FormationConfig(None).backend_cls.has_replica_groups


def test_a_replacement_that_fails_is_tried_again_and_not_for_ever():
    group = Group(failures=9)
    keep_survivors(group, lambda: False, lambda: True)
    for _ in range(10):
        group.replace_replica_group(1)
    assert group.replaced == [1]
    group.failures = 10
    for _ in range(9):
        group.replace_replica_group(1)
    with pytest.raises(RuntimeError, match="survivor"):
        group.replace_replica_group(1)


def test_without_a_place_nothing_is_tried_and_nothing_counted():
    group, places = Group(failures=0), [False] * 20 + [True]
    keep_survivors(group, lambda: False, lambda: places.pop(0))
    for _ in range(20):
        group.replace_replica_group(1)
    assert group.replaced == []
    group.replace_replica_group(1)
    assert group.replaced == [1]


def test_when_the_run_is_over_nobody_is_replaced_and_the_controller_ends():
    group = Group(failures=0)
    keep_survivors(group, lambda: True, lambda: False)
    with pytest.raises(RunIsOverError):
        group.replace_replica_group(1)
    assert group.replaced == []


def test_ray_hands_its_worker_group_to_the_backend_and_single_groups_pass():
    group, config = Group(failures=0), FormationConfig(None)
    callback = BackendSetupCallback(config)
    callback.after_execution_group_start(group)
    config.is_over = lambda: True
    with pytest.raises(RunIsOverError):
        group.replace_replica_group(0)
    callback.after_execution_group_start(object())
