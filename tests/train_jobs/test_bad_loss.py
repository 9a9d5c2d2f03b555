"""When a bad loss ends the run, and what is remembered for it."""

import math

import pytest

from train_jobs.bad_loss import error_of
from train_jobs.journal import Journal
from train_jobs.loop import StepResult, Wishes
from train_jobs.run_files import StepRecord
from train_jobs.spec import BadLoss


def result(step, loss=9.0, applied=False):
    return StepResult(
        step=step, samples=[0, 1], loss=loss, grad_norm=2.0, learning_rate=0.1, weight=1, tokens=1, draws="",
        metrics={}, fingerprint="", applied=applied, wishes=Wishes(), compute_s=0.1,
    )  # fmt: skip


def ids(step):
    return [f"{step}a", f"{step}b"]


@pytest.fixture
def journal(files):
    return Journal(files, trackers=None)


@pytest.mark.parametrize(("loss", "code"), [(9.0, "train.bad_loss"), (math.nan, "train.not_finite")])
def test_one_ends_a_run_that_does_not_skip_and_names_its_samples(loss, code):
    error = error_of(BadLoss.STOP, result(4, loss), 1, ids)
    assert error.code == code
    assert error.message.endswith("its samples are 4a, 4b.")


def test_the_third_skip_in_a_row_is_a_divergence_and_names_all_three():
    assert error_of(BadLoss.SKIP, result(4), 1, ids) is None
    assert error_of(BadLoss.SKIP, result(5), 2, ids) is None
    error = error_of(BadLoss.SKIP, result(6), 3, ids)
    assert (error.code, error.retryable) == ("train.diverged", False)
    assert "step 4: 4a, 4b; step 5: 5a, 5b; step 6: 6a, 6b." in error.message
    assert "learning_rate" in error.hint


def test_skips_are_counted_in_a_row(journal):
    for step, applied in enumerate([True, False, False, True, False], start=1):
        journal.enter(result(step, applied=applied), attempt=1)
    assert journal.skips == 1


def test_whoever_takes_over_the_state_has_counted_alike(journal, files):
    for step in (1, 2):
        journal.enter(result(step), attempt=1)
    other = Journal(files, trackers=None)
    other.take_up(journal.past())
    other.enter(result(3), attempt=2)
    assert other.skips == 3


def test_skips_up_to_a_checkpoint_are_counted_from_the_journal(journal, files):
    for step, applied in enumerate([False, True, False, False, False], start=1):
        record = StepRecord(
            step=step, loss=9.0, grad_norm=2.0, learning_rate=0.1, tokens=1, tokens_per_s=1.0, step_s=1.0,
            attempt=1, at=0.0, applied=applied,
        )  # fmt: skip
        files.add_step(record)
    assert [journal.past_at(step).skips for step in range(1, 6)] == [1, 0, 1, 2, 3]
