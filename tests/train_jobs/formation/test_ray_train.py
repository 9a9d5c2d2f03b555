"""What we lean on in Ray Train, for the version that it holds for."""

import pytest
import ray
from ray.train.v2._internal.callbacks.backend_setup import BackendSetupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from train_jobs.formation import ray_train
from train_jobs.formation.ray_train import FormationConfig, keep_survivors


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
    keep_survivors(group, lambda: None, lambda: True)
    for _ in range(10):
        group.replace_replica_group(1)
    assert group.replaced == [1]
    group.failures = 10
    for _ in range(9):
        group.replace_replica_group(1)
    with pytest.raises(RuntimeError, match="survivor"):
        group.replace_replica_group(1)


def test_without_a_place_nothing_is_tried_and_nothing_counted():
    group, places, slept = Group(failures=0), [False] * 20 + [True], []
    keep_survivors(group, lambda: None, lambda: places.pop(0), slept.append)
    for _ in range(20):
        group.replace_replica_group(1)
    assert group.replaced == []
    assert len(slept) == 20
    group.replace_replica_group(1)
    assert group.replaced == [1]


def test_ray_hands_its_worker_group_to_the_backend_and_single_groups_pass(monkeypatch):
    group, config = Group(failures=0), FormationConfig(None)
    asked = []
    config.end_if_over = lambda: asked.append(True)
    callback = BackendSetupCallback(config)
    callback.after_execution_group_start(group)
    monkeypatch.setattr(ray_train, "_has_places", lambda worker_group: worker_group is group)
    group.replace_replica_group(0)
    assert (len(asked), group.replaced) == (1, [0])
    callback.after_execution_group_start(object())
