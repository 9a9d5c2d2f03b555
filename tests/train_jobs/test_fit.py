import pytest

from train_jobs.fit import workers_to_launch
from train_jobs.spec import FaultTolerance, WorkersSpec


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
