from __future__ import annotations

import io
import signal

import pytest

from cluster.demo import story
from cluster.demo.client import BackgroundClient
from cluster.demo.state import Demo
from cluster.demo.story import STEPS, Step
from cluster.errors import ConflictError, InterruptedRunError
from tests.cluster.demo.world import SplitGateway


def steps(*acts) -> tuple[Step, ...]:
    return tuple(Step(act.__name__, act.__name__, act) for act in acts)


def test_steps_run_in_turn_and_are_timed(demo: Demo, said: io.StringIO):
    done = []

    def one(_: Demo) -> None:
        done.append(1)

    def two(_: Demo) -> None:
        done.append(2)

    story.run(demo, steps(one, two))
    assert done == [1, 2]
    assert [phase.name for phase in demo.phases] == ["one", "two"]
    assert "2/2  two" in said.getvalue()
    assert "Kept" not in said.getvalue()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_ends_what_was_started(
    demo: Demo, gateway: SplitGateway, said: io.StringIO, number: signal.Signals
):
    def work(_: Demo) -> None:
        demo.client = BackgroundClient(gateway.url, ["a"])
        demo.client.start()
        demo.training = demo.commands.start_linnet("models", "list")
        signal.raise_signal(number)

    def never(_: Demo) -> None:
        raise AssertionError

    former = signal.getsignal(number)
    with pytest.raises(InterruptedRunError, match="in the step `work`") as caught:
        story.run(demo, steps(work, never))
    assert caught.value.exit_code == 130
    assert not demo.training.running
    assert not demo.client._thread.is_alive()
    assert "versions of smollm2 in the store" in said.getvalue()
    assert signal.getsignal(number) == former


def test_an_error_ends_it_likewise_and_a_second_ctrl_c_cannot_stop_the_tidying(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
):
    tidied = []

    def tidy() -> None:
        signal.raise_signal(signal.SIGINT)
        tidied.append(True)

    def fail(_: Demo) -> None:
        raise ConflictError("A cluster already runs here.", code="cluster.running")

    with monkeypatch.context() as patch:
        patch.setattr(demo, "tidy", tidy)
        with pytest.raises(ConflictError):
            story.run(demo, steps(fail))
    assert tidied


def test_a_cluster_that_ran_before_is_not_the_demos(demo: Demo, monkeypatch: pytest.MonkeyPatch):
    running = type("Info", (), {"guard_pid": 7})
    monkeypatch.setattr("cluster.demo.state.runtime.current", lambda _settings: running)
    assert not demo.owns_cluster()
    demo.cluster_begun, demo.foreign_guard = True, 7
    assert not demo.owns_cluster()
    demo.foreign_guard = None
    assert demo.owns_cluster()


def test_every_step_has_a_name_of_its_own():
    assert len({step.name for step in STEPS}) == len(STEPS)
