from tests.train_jobs.test_run_files import step
from train_jobs.run_files import AttemptRecord
from train_jobs.timeline import Cause, last_of_each_step, summarize


def attempt(number, launch, resumed=0, at=0.0, skipped=()):
    return AttemptRecord(
        attempt=number, at=at, launch=launch, resumed_from_step=resumed, skipped=list(skipped), workers=[]
    )


def test_a_run_that_has_not_started():
    told = summarize([], [])
    assert (told.step, told.steps_redone, told.recovered_s, told.attempts) == (0, 0, None, [])


def test_a_run_without_failures():
    told = summarize([attempt(1, "a")], [step(1, at=1.0), step(2, at=2.0)])
    assert (told.step, told.steps_redone, told.recovered_s) == (2, 0, None)
    assert told.attempts[0].cause is Cause.START


def test_a_lost_worker_costs_the_steps_since_the_commit_and_the_time_to_the_first_new_step():
    steps = [step(n, attempt=1, at=float(n)) for n in range(1, 8)]
    steps += [step(n, attempt=2, at=10.0 + n) for n in range(6, 11)]
    told = summarize([attempt(1, "a"), attempt(2, "a", resumed=5)], steps)
    assert told.step == 10
    assert told.steps_redone == 2
    assert told.recovered_s == 18.0 - 7.0
    assert told.attempts[1].cause is Cause.RECOVERY


def test_a_recovery_under_way_has_no_time_yet():
    steps = [step(1, at=1.0), step(2, at=2.0), step(2, attempt=2, at=9.0)]
    told = summarize([attempt(1, "a"), attempt(2, "a", resumed=1)], steps)
    assert told.recovered_s is None
    assert told.steps_redone == 1


def test_a_run_resumed_by_command_the_day_after_is_no_recovery():
    told = summarize(
        [attempt(1, "a"), attempt(2, "b", resumed=1)], [step(1, at=1.0), step(2, 2, at=90_000.0)]
    )
    assert told.attempts[1].cause is Cause.COMMAND
    assert told.recovered_s is None


def test_two_failures_add_up_and_an_attempt_that_died_early_counts_to_the_next():
    steps = [
        step(1, 1, at=1.0),
        step(2, 1, at=2.0),
        step(3, 3, at=12.0),
        step(3, 4, at=20.0),
        step(4, 4, at=21.0),
    ]
    attempts = [attempt(1, "a"), attempt(2, "a", 2), attempt(3, "a", 2), attempt(4, "a", 2)]
    told = summarize(attempts, steps)
    assert [a.recovered_s for a in told.attempts] == [None, None, 10.0, 9.0]
    assert told.recovered_s == 19.0
    assert told.steps_redone == 1


def test_of_a_step_done_twice_the_later_record_counts():
    steps = [step(1, 1), step(2, 1), step(3, 1), step(2, 2), step(3, 2)]
    assert [(s.step, s.attempt) for s in last_of_each_step(steps)] == [(1, 1), (2, 2), (3, 2)]
