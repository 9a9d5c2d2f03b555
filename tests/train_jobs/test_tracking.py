"""Trackers: TensorBoard's files read back, resumes, and trackers that fail."""

import json
import logging
import struct
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from cluster.errors import ConfigError
from train_jobs import tracking
from train_jobs.run_files import StepRecord
from train_jobs.spec import Tracker
from train_jobs.tracking import Trackers, metrics_of, require_installed


@pytest.fixture
def tracked(spec):
    return spec.model_copy(update={"report_to": (Tracker.TENSORBOARD,)})


def events(files):
    """`(step, name, value)` of every scalar in the run's event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(files.storage.local_path(f"{files.directory}/tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[16 + length :]
    return found


def wait_for_mark(files, step):
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        path = f"{files.directory}/trackers/tensorboard.json"
        if files.storage.exists(path) and json.loads(files.storage.read_bytes(path))["step"] == step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not taken")


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_tensorboard_gets_every_metric_under_its_step(tracked, files, settings):
    trackers = Trackers(tracked, files, settings)
    trackers.log(1, {"train/loss": 2.0, "eval/loss": 3.0})
    trackers.log(2, {"train/loss": 1.5})
    trackers.close()
    assert events(files) == [(1, "train/loss", 2.0), (1, "eval/loss", 3.0), (2, "train/loss", 1.5)]


def test_steps_that_are_done_again_are_given_once(tracked, files, settings):
    for first, last in ((1, 6), (4, 9)):
        trackers = Trackers(tracked, files, settings)
        for step in range(first, last):
            trackers.log(step, {"train/loss": float(step)})
        for step in range(last - 2, last):
            trackers.log(step, {"train/loss": 99.0})
        trackers.close()
    assert Counter(events(files)) == Counter((step, "train/loss", float(step)) for step in range(1, 9))


def test_processes_that_take_turns_share_one_record(tracked, files, settings):
    first, second, idle = (Trackers(tracked, files, settings) for _ in range(3))
    for trackers, steps in ((first, (1, 2)), (second, (2, 3)), (first, (3, 4)), (second, (4, 5))):
        for step in steps:
            trackers.log(step, {"train/loss": float(step)})
        wait_for_mark(files, steps[-1])
    for trackers in (first, second, idle):
        trackers.close()
    assert Counter(events(files)) == Counter((step, "train/loss", float(step)) for step in range(1, 6))
    assert len(list(files.storage.local_path(f"{files.directory}/tensorboard").iterdir())) == 2


def test_a_torn_mark_only_means_starting_over(tracked, files, settings, caplog):
    files.storage.write_atomic(f"{files.directory}/trackers/tensorboard.json", b'{"step": 4')
    trackers = Trackers(tracked, files, settings)
    trackers.log(1, {"train/loss": 1.0})
    trackers.close()
    assert events(files) == [(1, "train/loss", 1.0)]
    assert warnings_of(caplog) == []


def test_a_run_without_trackers_writes_nothing(spec, files, settings):
    trackers = Trackers(spec, files, settings)
    trackers.log(1, {"train/loss": 1.0})
    trackers.close()
    assert not files.storage.is_dir(files.directory)


@pytest.mark.parametrize("error", [OSError("disk full"), SystemExit(1)])
def test_a_tracker_that_fails_warns_once_and_the_others_go_on(
    tracked, files, settings, caplog, monkeypatch, error
):
    def refuse(*_):
        raise error

    failing = SimpleNamespace(run_id="", write=refuse, close=lambda: None)
    monkeypatch.setitem(tracking._OPENERS, Tracker.MLFLOW, lambda *_: failing)
    both = tracked.model_copy(update={"report_to": (Tracker.MLFLOW, Tracker.TENSORBOARD)})
    trackers = Trackers(both, files, settings)
    for step in (1, 2, 3):
        trackers.log(step, {"train/loss": 1.0})
    trackers.close()
    assert [step for step, _, _ in events(files)] == [1, 2, 3]
    (warning,) = warnings_of(caplog)
    assert warning.startswith("mlflow is left out from now on")


def test_a_tracker_that_hangs_holds_nobody_up(tracked, files, settings, caplog, monkeypatch):
    release = threading.Event()
    hung = SimpleNamespace(run_id="", write=lambda *_: release.wait(60), close=lambda: None)
    monkeypatch.setitem(tracking._OPENERS, Tracker.TENSORBOARD, lambda *_: hung)
    monkeypatch.setattr(tracking, "_CLOSE_TIMEOUT_S", 0.1)
    trackers = Trackers(tracked, files, settings)
    for step in range(1, 1000):
        trackers.log(step, {"train/loss": 1.0})
    trackers.close()
    release.set()
    assert ["did not take its last metrics" in text for text in warnings_of(caplog)] == [True]


def test_a_tracker_keeps_its_own_name_of_the_run(tracked, files, settings, monkeypatch):
    opened = []

    def opener(_files, _settings, run_id):
        opened.append(run_id)
        return SimpleNamespace(run_id=run_id or "made", write=lambda *_: None, close=lambda: None)

    monkeypatch.setitem(tracking._OPENERS, Tracker.TENSORBOARD, opener)
    for step in (1, 2):
        trackers = Trackers(tracked, files, settings)
        trackers.log(step, {"train/loss": 1.0})
        trackers.close()
    assert opened == ["", "made"]


def test_a_missing_package_is_named_with_the_command_that_adds_it(spec, monkeypatch):
    monkeypatch.setitem(tracking._MODULES, Tracker.WANDB, "no_such_package")
    require_installed(spec.model_copy(update={"report_to": (Tracker.TENSORBOARD,)}))
    with pytest.raises(ConfigError) as caught:
        require_installed(spec.model_copy(update={"report_to": (Tracker.TENSORBOARD, Tracker.WANDB)}))
    assert caught.value.code == "train.tracker_missing"
    assert "no_such_package" in caught.value.message
    assert "pip install no_such_package" in caught.value.hint


def test_metrics_have_the_names_of_hugging_face():
    record = StepRecord(
        step=4, loss=1.0, grad_norm=2.0, learning_rate=3.0, tokens=5, tokens_per_s=6.0, step_s=7.0,
        attempt=1, at=0.0, metrics={"rewards/margins": 8.0}, eval={"eval_loss": 9.0},
    )  # fmt: skip
    assert metrics_of(record) == {
        "train/loss": 1.0,
        "train/grad_norm": 2.0,
        "train/learning_rate": 3.0,
        "train/tokens_per_s": 6.0,
        "train/step_s": 7.0,
        "train/rewards/margins": 8.0,
        "eval/loss": 9.0,
    }
