import pytest

from cluster.errors import ConfigError
from train_jobs.base_config import BaseConfig
from train_jobs.encoded import EncodedData
from train_jobs.encoding import Longest
from train_jobs.fit import require_room, workers_to_launch
from train_jobs.spec import FaultTolerance, WorkersSpec

GIB = 2**30
SMOLLM = BaseConfig(width=576, layers=30, vocabulary=49152)
PARAMETERS = 135 * 10**6


class Cluster:
    """Room that changes with time, on a clock of its own."""

    def __init__(self, *room: tuple[float, int]) -> None:
        self.room, self.now = room, 0.0

    def __call__(self, spec):
        return [count for since, count in self.room if since <= self.now][-1]

    def ask(self, spec):
        return workers_to_launch(spec, self, lambda: self.now, self._sleep)

    def _sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def elastic(spec):
    return spec.model_copy(
        update={"workers": WorkersSpec(min=2, max=4), "num_workers": 1, "standby": 1, "threads_per_worker": 1}
    )


def test_a_group_of_one_size_is_asked_for_as_it_is(spec):
    assert Cluster((0, 0)).ask(spec.model_copy(update={"standby": 1})) == 3


def test_an_elastic_group_starts_with_what_fits_and_waits_for_its_least(elastic):
    assert Cluster((0, 9)).ask(elastic) == 5
    assert Cluster((0, 3)).ask(elastic) == 3
    late = Cluster((0, 1), (40, 2))
    assert late.ask(elastic) == 2
    assert late.now == 40


def test_cpus_that_are_given_back_in_a_moment_are_waited_for(elastic):
    cluster = Cluster((0, 4), (2, 5))
    assert cluster.ask(elastic) == 5
    assert cluster.now == 2


def test_a_run_that_goes_on_with_survivors_starts_with_what_fits(spec):
    goes_on = spec.model_copy(update={"fault_tolerance": FaultTolerance.CONTINUE, "num_workers": 4})
    assert Cluster((0, 1)).ask(goes_on) == 1


def encoded(tokens):
    longest = Longest(tokens=tokens, answers=tokens)
    return EncodedData(key="k", fingerprint="f", rows=1, samples=1, longest=longest, dropped={})


def test_room_is_measured_with_the_longest_rows_that_the_data_have(spec, monkeypatch):
    node = {"Alive": True, "Resources": {"CPU": 4.0, "memory": 6 * GIB}}
    monkeypatch.setattr("ray.nodes", lambda: [node])
    # What may yet turn out to be short is not refused.
    require_room(spec, PARAMETERS, SMOLLM)
    require_room(spec, PARAMETERS, SMOLLM, [encoded(60)])
    for data in ([encoded(1024)], [encoded(60), encoded(1024)]):
        with pytest.raises(ConfigError) as caught:
            require_room(spec, PARAMETERS, SMOLLM, data)
        assert caught.value.code == "train.too_little_memory"
        assert "max_length=" in caught.value.hint
    node["Resources"]["memory"] = GIB
    with pytest.raises(ConfigError, match="GiB each"):
        require_room(spec, PARAMETERS)
