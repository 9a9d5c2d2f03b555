import io
import threading

from tests.train_jobs.test_run_files import step
from tests.train_jobs.test_timeline import attempt
from train_jobs.progress import Follower, Reporter, eta_s, step_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_eta_follows_the_latest_pace():
    slow = [step(n).model_copy(update={"step_s": 60.0}) for n in range(1, 21)]
    fast = [step(n).model_copy(update={"step_s": 3.0}) for n in range(21, 31)]
    assert eta_s([*slow, *fast], total=40) == 30.0
    assert step_line("r", [*slow, *fast], 40) == "r  step 30/40  loss 0.3000  5 tokens/s  ETA 0:30"


def test_without_a_terminal_every_line_stands_alone():
    out, log = io.StringIO(), io.StringIO()
    reporter = Reporter(out, log)
    reporter.step("step 1")
    reporter.step("step 2")
    reporter.say("done")
    assert out.getvalue() == "step 1\nstep 2\ndone\n"
    assert log.getvalue() == out.getvalue()


def test_on_a_terminal_a_step_takes_the_place_of_the_one_before():
    out = Terminal()
    reporter = Reporter(out)
    reporter.step("step 1")
    reporter.step("step 2")
    reporter.say("done")
    assert out.getvalue() == "\r\x1b[2Kstep 1\r\x1b[2Kstep 2\ndone\n"


def test_the_follower_tells_what_the_journals_gain_and_nothing_of_before(files):
    files.add_step(step(1))
    out, told = io.StringIO(), threading.Event()
    ticks = []

    def tick(furthest, attempts):
        ticks.append((furthest, attempts))
        told.set()

    with Follower(files, Reporter(out), total=6, every=2, tick=tick):
        files.add_attempt(attempt(1, "a", skipped=["`step_9` is torn."]))
        for number in range(2, 7):
            files.add_step(step(number))
        assert told.wait(10)
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["skipped: `step_9` is torn.", "attempt 1 goes on from step 0 ()"]
    assert [line.split()[2] for line in lines[2:]] == ["2/6", "4/6", "6/6"]
    assert ticks[-1] == (6, 1)
