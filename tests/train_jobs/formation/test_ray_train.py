"""What we lean on in Ray Train, for the version that it holds for."""

from functools import partial
from types import SimpleNamespace

import pytest
import ray
from ray.train.v2._internal.callbacks.backend_setup import BackendSetupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from train_jobs.formation import ray_train
from train_jobs.formation.ray_train import FormationConfig, keep_survivors


class Group:
    """Fails to replace as often as it is told to."""

    def __init__(self, failures):
        self.failures, self.replaced, self.given_up = failures, [], []

    def get_replica_groups(self):
        give_up = self.given_up.append
        return [SimpleNamespace(shutdown=partial(give_up, index)) for index in range(3)]

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
    keep_survivors(group, lambda: None, lambda _: True)
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
    keep_survivors(group, lambda: None, lambda _: places.pop(0), slept.append)
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
    monkeypatch.setattr(ray_train, "_has_place", lambda *place: place == (group, 0))
    group.replace_replica_group(0)
    assert (len(asked), group.replaced) == (1, [0])
    callback.after_execution_group_start(object())


@pytest.fixture
def spread(monkeypatch):
    """Three workers, the last with another bundle than its rank, and what lives and answers."""
    table = {0: "lives", 1: "", 5: "fell silent"}
    monkeypatch.setattr("ray.util.placement_group_table", lambda _: {"bundles_to_node_id": table})
    monkeypatch.setattr(ray_train.ray_signals, "node_answers", "lives".__eq__)
    group = Group(failures=0)
    handle = SimpleNamespace(placement_group=None)
    group.get_worker_group_state = lambda: SimpleNamespace(placement_group_handle=handle)
    group.get_workers = lambda: [SimpleNamespace(placement_group_bundle_index=index) for index in table]
    return group


def test_a_lost_place_keeps_nobody_else_from_being_replaced(spread):
    slept = []
    keep_survivors(spread, lambda: None, partial(ray_train._has_place, spread), slept.append)
    for index in (1, 2, 0):
        spread.replace_replica_group(index)
    assert (spread.replaced, spread.given_up) == ([0], [1, 2])
    assert len(slept) == 2
