from tests.train_jobs.test_run_files import step
from tests.train_jobs.test_timeline import attempt
from train_jobs.plot import loss_png
from train_jobs.timeline import summarize


def test_a_restart_is_drawn():
    steps = [step(n, at=float(n)) for n in range(1, 6)]
    calm = loss_png("run-1", steps, summarize([attempt(1, "a")], steps))
    lost = loss_png("run-1", steps, summarize([attempt(1, "a"), attempt(2, "a", resumed=3)], steps))
    assert calm.startswith(b"\x89PNG")
    assert lost.startswith(b"\x89PNG")
    assert calm != lost
