"""Stacks of real processes: running, stopped, idle beside other threads, and gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

from train_jobs import stacks
from train_jobs.stacks import frames, python_stack

PROGRAM = """\
import threading, time

def wait_for_ever():
    while True:
        time.sleep(60)

def spin_in_here():
    print("ready", flush=True)
    while True:
        pass

threading.Thread(target=wait_for_ever, daemon=True, name="linnet-beat").start()
{start}
"""
IN_MAIN = "spin_in_here()"
IN_TRAINING_THREAD = (
    "threading.Thread(target=spin_in_here, name='TrainingThread(train_loop)').start()\nwait_for_ever()"
)


@pytest.fixture
def child(request):
    """A process of its own that spins in `spin_in_here`."""
    command = [sys.executable, "-c", PROGRAM.format(start=request.param)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("child", [IN_MAIN, IN_TRAINING_THREAD], indirect=True)
def test_a_running_process_shows_where_it_is(child):
    assert any(frame.startswith("spin_in_here (") for frame in frames(python_stack(child.pid))[:1])
    assert child.poll() is None


@pytest.mark.parametrize("child", [IN_MAIN, IN_TRAINING_THREAD], indirect=True)
def test_a_stopped_process_shows_where_it_is_and_stays_stopped(child):
    os.kill(child.pid, signal.SIGSTOP)
    limit = time.monotonic() + 10
    while not is_stopped(child.pid) and time.monotonic() < limit:
        time.sleep(0.01)
    assert frames(python_stack(child.pid))[0].startswith("spin_in_here (")
    assert is_stopped(child.pid)


@pytest.mark.parametrize("child", [IN_MAIN], indirect=True)
def test_other_threads_are_in_the_text_and_not_in_the_frames(child):
    text = python_stack(child.pid)
    assert "wait_for_ever" in text
    assert not any("wait_for_ever" in frame for frame in frames(text))


def test_a_process_that_is_gone_gives_a_sentence():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    text = python_stack(process.pid)
    assert text.startswith("No stack: ")
    assert str(process.pid) in text
    assert "\n" not in text
    assert frames(text) == []


@pytest.mark.parametrize("child", [IN_MAIN], indirect=True)
def test_a_py_spy_that_takes_too_long_gives_a_sentence(child, tmp_path, monkeypatch):
    slow = tmp_path / "py-spy"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(stacks.sys, "executable", str(tmp_path / "python"))
    assert python_stack(child.pid, timeout_s=0.2).startswith("No stack: py-spy did not answer within 0.2 s")


def test_without_py_spy_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(stacks.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "pip install py-spy" in python_stack(os.getpid())
