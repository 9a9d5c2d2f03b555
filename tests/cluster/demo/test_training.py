from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cluster.config import Settings
from cluster.demo import training
from cluster.demo.figures import LossPoint, Mark
from cluster.demo.state import Demo
from cluster.errors import LinnetError, NotFoundError, TimedOutError
from cluster.storage import Storage


def point(step: int, attempt: int = 1) -> LossPoint:
    return LossPoint(step=step, loss=1 / step, attempt=attempt, at=100.0 + step)


@pytest.mark.parametrize(
    ("step", "now"), [(1, False), (11, False), (12, True), (14, True), (15, False), (16, True), (20, False)]
)
def test_the_kill_falls_between_two_checkpoints(step: int, now: bool):
    assert training.is_time_to_kill([point(step)], 12, 5) is now


def test_recovered_is_who_trained_a_step_that_is_new():
    before = [point(11), point(12)]
    assert not training.has_recovered(before)
    assert not training.has_recovered([*before, point(11, 2)])
    assert not training.has_recovered([*before, point(11, 2), point(12, 2)])
    assert training.has_recovered([*before, point(11, 2), point(12, 2), point(13, 2)])


def test_metrics_are_read_while_they_grow(settings: Settings):
    storage = Storage(settings.root)
    assert training.read_losses(storage, "demo") == []
    line = {"step": 1, "loss": 2.5, "attempt": 1, "at": 9.0, "tokens": 77, "learning_rate": 0.1}
    storage.append_line("runs/demo/metrics.jsonl", json.dumps(line).encode())
    storage.append_line("runs/demo/metrics.jsonl", b'{"step": 2, "lo')
    assert training.read_losses(storage, "demo") == [LossPoint(step=1, loss=2.5, attempt=1, at=9.0)]


def test_a_run_that_ends_before_its_last_step_is_told_by_its_own_error(demo: Demo):
    demo.run = "demo-x"
    demo.training = demo.commands.start_linnet("train", "show", "demo-x")
    with pytest.raises(NotFoundError, match="demo-x"):
        training._follow(demo, lambda points: False)


def test_a_run_that_makes_no_step_is_given_up(demo: Demo, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "_STUCK_S", 0.0)
    demo.run = "demo-x"
    demo.training = demo.commands.start_linnet("models", "list")
    with pytest.raises((TimedOutError, LinnetError)):
        training._follow(demo, lambda points: False)


def told(**changes: object) -> dict[str, object]:
    attempts = [{"attempt": 1, "cause": "start"}, {"attempt": 2, "cause": "recovery"}]
    return {"step": 40, "attempts": attempts, "steps_redone": 2, "recovered_s": 17.5, **changes}


def killed(demo: Demo) -> Demo:
    demo.run, demo.workers, demo.killed_after_step = "demo-x", 2, 12
    demo.kills = [Mark(name="worker killed", at=112.0)]
    demo.losses = [point(1), point(40, 2)]
    return demo


def test_the_figures_are_the_runs_own(demo: Demo):
    found = training.figures(killed(demo), told())
    assert (found.workers, found.kills, found.steps, found.steps_redone, found.recovered_s) == (
        2,
        1,
        40,
        2,
        17.5,
    )
    assert (found.first_loss, found.last_loss) == (1.0, 1 / 40)


@pytest.mark.parametrize("changes", [{"attempts": [{"attempt": 1, "cause": "start"}]}, {"recovered_s": None}])
def test_a_run_without_a_recovery_is_an_error(demo: Demo, changes: dict[str, object]):
    with pytest.raises(LinnetError) as caught:
        training.figures(killed(demo), told(**changes))
    assert caught.value.code == "demo.not_recovered"


def test_only_a_process_below_the_cluster_is_a_victim():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert training.belongs(child.pid, os.getpid())
        assert not training.belongs(os.getpid(), child.pid)
    finally:
        child.communicate(b"\n")
    assert not training.belongs(child.pid, os.getpid())
