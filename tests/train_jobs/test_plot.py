import pytest

from cluster.recovery.classes import FailureClass
from tests.cluster.recovery.samples import receipt
from train_jobs.plot import loss_png, spent
from train_jobs.run_files import AttemptRecord, StepRecord
from train_jobs.timeline import summarize


def step(number, at, attempt=1):
    return StepRecord(
        step=number, loss=1 / number, grad_norm=1.0, learning_rate=1e-3, tokens=10, tokens_per_s=20.0,
        step_s=0.5, attempt=attempt, at=at,
    )  # fmt: skip


def attempt(number, resumed=0, launch="a"):
    return AttemptRecord(
        attempt=number, at=0.0, launch=launch, resumed_from_step=resumed, skipped=[], workers=[]
    )


@pytest.fixture
def steps():
    """Three steps to second 101.5, a failure, steps 3 and 4 from second 106 on."""
    return [step(1, 100.5), step(2, 101.0), step(3, 101.5), step(3, 106.0, 2), step(4, 106.5, 2)]


LOST = receipt(at=101.5, detect_s=1.0, isolate_s=0.5, recover_s=2.5, verify_s=0.5, total_s=5.0, step=3)


def test_the_wall_clock_is_told_apart(steps):
    found = spent(steps, [LOST])
    assert found["useful"] == [(0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (6.0, 0.5)]
    assert found["redone"] == [(5.5, 0.5)]
    assert found["detecting"] == [(1.5, 1.0)]
    assert found["recovering"] == [(2.5, 3.0)]


def test_a_calm_run_spends_its_time_on_steps(steps):
    found = spent(steps[:3], [])
    assert [name for name, spans in found.items() if spans] == ["useful"]


def test_a_failure_during_a_recovery_is_not_counted_twice(steps):
    again = receipt(number=2, at=103.0, detect_s=0.25, isolate_s=0.0, recover_s=3.0)
    found = spent(steps, [LOST, again])
    assert found["recovering"] == [(2.5, 3.75)]
    assert found["detecting"] == [(1.5, 1.0), (3.0, 0.25)]


def test_what_took_no_time_is_not_drawn(steps):
    named = receipt(failure_class="slow_rank", at=101.0, detect_s=0.0, isolate_s=0.0, recover_s=0.0)
    assert spent(steps, [named])["detecting"] == spent(steps, [named])["recovering"] == []


def test_failures_and_commands_are_drawn(steps):
    told = summarize([attempt(1), attempt(2, 2)], steps)
    by_command = summarize([attempt(1), attempt(2, 2, launch="b")], steps)
    pictures = [
        loss_png("run-1", steps, told),
        loss_png("run-1", steps, told, [LOST]),
        loss_png("run-1", steps, told, [LOST.model_copy(update={"failure_class": FailureClass.HUNG_RANK})]),
        loss_png("run-1", steps, by_command),
    ]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(set(pictures)) == len(pictures)
