"""What is told of each step, whoever is rank 0 when it can be told."""

import json

import pytest

from train_jobs.journal import Journal
from train_jobs.loop import StepResult, Wishes
from train_jobs.tracking import Trackers


def result(step, *, loss=0.5, applied=True):
    return StepResult(
        step=step,
        samples=[step],
        loss=loss,
        grad_norm=1.0,
        learning_rate=0.1,
        weight=4,
        tokens=8,
        draws="d",
        fingerprint="f",
        metrics={"rewards/margins": step / 10},
        applied=applied,
        wishes=Wishes(),
        compute_s=0.1,
    )


@pytest.fixture
def journal(spec, files, settings):
    return lambda: Journal(files, Trackers(spec, files, settings))


def told(files):
    return {r.step: (r.metrics, r.eval, r.applied) for r in files.read_steps()}


def test_a_new_rank_0_writes_all_that_the_one_before_knew_of_its_last_steps(journal, files):
    first, other = journal(), journal()
    entry = first.enter(result(1), 1)
    first.write(entry, 2.0)
    for step in (2, 3):
        first.enter(result(step), 1)
    first.enter_evaluation(3, {"eval_loss": 0.25, "eval_rewards/margins": 1.5})
    other.take_up(first.past())
    other.catch_up(50.0)
    other.catch_up(60.0)
    assert told(files) == {
        1: ({"rewards/margins": 0.1}, {}, True),
        2: ({"rewards/margins": 0.2}, {}, True),
        3: ({"rewards/margins": 0.3}, {"eval_loss": 0.25, "eval_rewards/margins": 1.5}, True),
    }
    assert [record.at for record in files.read_steps()][1:] == [50.0, 50.0]
    assert other.eval_loss(3) == 0.25
    assert other.eval_loss(2) is None


def test_what_is_committed_is_forgotten_and_its_evaluations_are_not(journal):
    kept = journal()
    for step in (1, 2, 3):
        kept.enter(result(step), 1)
        kept.enter_evaluation(step, {"eval_loss": float(step)})
    kept.trim(2)
    past = kept.past()
    assert ([e.step for e in past.pending], set(past.metrics), set(past.evaluated)) == ([3], {3}, {3})
    assert past.evaluations == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_restored_run_looks_back_at_what_an_uninterrupted_one_would(journal, files):
    kept = journal()
    for step in range(1, 31):
        entry = kept.enter(result(step, loss=float(step), applied=step != 30), 1)
        if step % 10 == 0:
            kept.enter_evaluation(step, {"eval_loss": step / 10})
        kept.write(entry, 1.0)
    restored = journal()
    past = restored.past_at(25)
    assert past.evaluations == [(10, 1.0), (20, 2.0)]
    assert past.losses == [float(step) for step in range(6, 26)]
    assert restored.past_at(30).skips == 1


def test_the_witness_holds_what_no_checkpoint_holds_yet_and_does_not_grow_for_ever(journal, files):
    kept = journal()
    for step in range(1, 401):
        kept.write(kept.enter(result(step), 1), 1.0)
        kept.trim(step - 5)
    lines = files.storage.read_bytes(files.witness).decode().splitlines()
    assert len(lines) < 120
    assert json.loads(lines[-1])["step"] == 400
    assert sorted(journal().read_witness(396)) == [397, 398, 399, 400]
