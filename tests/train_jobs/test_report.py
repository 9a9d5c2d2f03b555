import json

import pytest

from cluster.recovery import receipts
from cluster.state.database import open_database
from tests.cluster.recovery.samples import STACK, receipt
from train_jobs import report, runs
from train_jobs.certificate import Certificate, append_certificate
from train_jobs.run_files import AttemptRecord, StepRecord
from train_jobs.runs import RunStatus

WORKERS = [{"rank": 0, "pid": 11, "node_ip": "10.0.0.1"}, {"rank": 1, "pid": 12, "node_ip": "10.0.0.2"}]
BEGAN = 1_764_000_000.0


@pytest.fixture
def run(settings):
    """A finished run in the state database."""
    with open_database(settings.state_url).transaction() as session:
        row = runs.claim(session, "run-1", driver=runs.this_driver("a"), spec_sha256="0" * 64, total_steps=12)
        runs.set_status(session, row, RunStatus.FINISHED, "completed")
    return "run-1"


def attempt(number, at, resumed=0, launch="a", skipped=()):
    return AttemptRecord(
        attempt=number, at=BEGAN + at, launch=launch, resumed_from_step=resumed, skipped=list(skipped),
        workers=WORKERS,
    )  # fmt: skip


def add_steps(files, numbers, attempt_number, start):
    """One step a second, none before `start` seconds."""
    for place, number in enumerate(numbers, start=1):
        record = StepRecord(
            step=number, loss=0.5, grad_norm=1.0, learning_rate=1e-3, tokens=10, tokens_per_s=10.0,
            step_s=1.0, attempt=attempt_number, at=BEGAN + start + place,
        )  # fmt: skip
        files.add_step(record)


@pytest.fixture
def failed_once(files, run):
    """Steps 1 to 7, a crash; from step 5 again 10 s later, to step 12."""
    files.add_attempt(attempt(1, 0.0))
    add_steps(files, range(1, 8), 1, start=0.0)
    files.add_attempt(attempt(2, 9.0, resumed=5, skipped=["step_6: never committed"]))
    add_steps(files, range(6, 13), 2, start=10.0)
    crash = receipt(at=BEGAN + 7.0, step=7, committed_step=5, steps_redone=2, stack=STACK)
    receipts.append(files.storage, files.receipts, crash)
    append_certificate(files, Certificate(attempt=2, restored_step=5, replayed_steps=[6, 7], verdict="equal"))
    return crash


def test_a_run_that_has_not_begun_is_told(settings, run):
    told = report.describe(run, settings)
    assert (told["receipts"], told["certificates"], told["goodput"]) == ([], [], None)
    lines = report.render(told)
    assert "status      finished (completed)" in lines
    assert "timeline" not in lines


def test_a_failure_is_told_as_json_takes_it(settings, run, failed_once):
    told = json.loads(json.dumps(report.describe(run, settings), default=str))
    assert told["receipts"] == [failed_once.model_dump(mode="json")]
    assert [c["verdict"] for c in told["certificates"]] == ["equal"]
    assert (told["steps_redone"], told["recovered_s"]) == (2, 6.0)
    assert told["goodput"] == 12 / 17
    assert [a["cause"] for a in told["attempts"]] == ["start", "recovery"]
    assert (told["workers"], told["pids"]) == ([], [])


def test_a_run_that_goes_on_loses_goodput_while_it_stands(settings, run, failed_once, monkeypatch):
    monkeypatch.setattr(report.time, "time", lambda: BEGAN + 24.0)
    with open_database(settings.state_url).transaction() as session:
        runs.set_status(session, runs.require(session, run), RunStatus.RUNNING, "training")
    assert report.describe(run, settings)["goodput"] == 0.5


def test_the_text_has_receipts_and_the_timeline_in_order(settings, run, failed_once):
    lines = report.render(report.describe(run, settings))
    assert "goodput     70.6%" in lines
    assert "failures    2 steps redone, 6.0 s to new work" in lines
    assert any(line.startswith("receipt 1: worker_crash after step 7") for line in lines)
    assert [" ".join(line.split()) for line in lines[lines.index("timeline") + 1 :]] == [
        "+0:00:00 attempt 1 start, from step 0, 2 workers",
        "+0:00:07 failure 1 worker_crash after step 7, rank 1: restart_from_commit, 10.0 s",
        "+0:00:09 attempt 2 recovery, from step 5, 2 workers, new work after 6.0 s",
        "skipped: step_6: never committed",
        "certificate: equal, steps 6 to 7 came out the same again",
    ]
    assert max(len(line) for line in lines if not line.startswith("directory")) <= 100


def test_of_many_receipts_the_newest_are_in_full_and_all_in_the_table(settings, files, run, failed_once):
    for number in range(2, 30):
        receipts.append(files.storage, files.receipts, receipt(number=number, at=BEGAN + number))
    lines = report.render(report.describe(run, settings))
    assert sum(line.startswith("receipt ") for line in lines) == 3
    assert sum(" worker_crash " in line and "failure" not in line for line in lines) == 29 + 3


def test_a_difference_is_what_is_told_of_a_certificate(settings, files, run):
    files.add_attempt(attempt(1, 0.0))
    files.add_attempt(attempt(2, 5.0, launch="b"))
    append_certificate(
        files,
        Certificate(
            attempt=2, restored_step=0, replayed_steps=[1], verdict="unequal", difference="step 1: loss was 1"
        ),
    )
    text = "\n".join(report.render(report.describe(run, settings)))
    assert "certificate: unequal, step 1: loss was 1" in text
    assert "resumed by command, from step 0" in text
