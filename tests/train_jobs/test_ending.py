import pytest

from train_jobs import ending
from train_jobs.ending import Why


@pytest.mark.parametrize(("step", "why"), [(8, Why.MAX_STEPS), (5, Why.EARLY_STOPPING)])
def test_the_end_of_a_run_comes_back_until_it_is_forgotten(files, spec, step, why):
    assert ending.read(files) is None
    ending.write(files, ending.at_step(step, spec))
    told = ending.read(files)
    assert (told.step, told.why) == (step, why)
    for _ in range(2):
        ending.forget(files)
    assert ending.read(files) is None


def test_one_that_does_not_read_is_none(files):
    files.storage.write_atomic(files.end, b'{"step": 8')
    assert ending.read(files) is None
