import signal
from types import SimpleNamespace

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train.v2.api.exceptions import ControllerError

from cluster.errors import ConfigError, InterruptedRunError, LinnetError
from train_jobs import fit
from train_jobs.base_config import BaseConfig
from train_jobs.encoded import EncodedData
from train_jobs.encoding import Longest
from train_jobs.fit import require_room, workers_to_launch
from train_jobs.formation.messages import End
from train_jobs.spec import FaultTolerance, WorkersSpec
from train_jobs.stopping import handlers_kept

GIB = 2**30
SMOLLM = BaseConfig(width=576, layers=30, vocabulary=49152)
PARAMETERS = 135 * 10**6


class Cluster:
    """Room that changes with time, on a clock of its own."""

    def __init__(self, *room: tuple[float, int]) -> None:
        self.room, self.now, self.asked = room, 0.0, []
        self.told: list[str] = []

    def __call__(self, spec):
        return [count for since, count in self.room if since <= self.now][-1]

    def ask(self, spec):
        clock = {"clock": lambda: self.now, "sleep": self._sleep}
        return workers_to_launch(spec, self, self._ask, self.told.append, **clock)

    def _ask(self):
        self.asked.append(self.now)

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
    assert late.asked[0] == 5
    assert late.asked[-1] < 40


def test_what_there_is_room_for_is_told_when_it_changes_and_not_while_cpus_may_come_back(elastic):
    calm = Cluster((0, 1), (4, 2))
    assert calm.ask(elastic) == 2
    assert (calm.told, calm.asked) == ([], [])
    short = Cluster((0, 0), (20, 1), (40, 0), (60, 2))
    assert short.ask(elastic) == 2
    assert [line.partition("room for ")[2][0] for line in short.told] == ["0", "1", "0"]
    assert "at least 2 workers" in short.told[0]


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


class Coordinator:
    """Answers at once; the run ends with the launch that `ends` says."""

    def __init__(self, ends):
        self.ends, self.launches = ends, 0

    def __getattr__(self, method):
        return SimpleNamespace(remote=getattr(self, f"_{method}"))

    def _outcome(self):
        return End(8, None) if self.launches >= self.ends else None

    def _committed_step(self):
        return 3

    def _launched(self, workers):
        self.launches += 1


@pytest.fixture
def fitting(spec, monkeypatch):
    """Fits a run whose every launch raises `error`; returns the last step and the number of launches."""
    monkeypatch.setattr(ray, "get", lambda value: value)

    def _fit(ends, error):
        def launch(job, workers):
            raise error

        monkeypatch.setattr(fit, "_launch", launch)
        coordinator = Coordinator(ends)
        step = fit.fit(SimpleNamespace(spec=spec, coordinator=coordinator), print)
        return step, coordinator.launches

    return _fit


@pytest.mark.parametrize("error", [RayActorError(), ControllerError(RuntimeError("started badly"))])
def test_a_lost_controller_is_launched_again_and_not_for_ever(fitting, error):
    assert fitting(3, error) == (8, 3)
    # The last one may end it, too: what counts is what the coordinator says.
    assert fitting(10, error) == (8, 10)
    with pytest.raises(LinnetError) as caught:
        fitting(11, error)
    assert caught.value.code == "train.workers_lost"


def test_only_rays_own_answer_to_ctrl_c_is_a_stop(fitting):
    with pytest.raises(InterruptedRunError):
        fitting(3, SystemExit(0))


def test_a_handler_of_ctrl_c_does_not_outlive_what_it_was_put_for():
    former = signal.getsignal(signal.SIGINT)
    with handlers_kept():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is former
