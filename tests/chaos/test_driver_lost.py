"""The driver itself is killed, and its Ray with it: the same command goes on from the last commit."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

import train_jobs
from cluster.storage import Storage
from tests.chaos.checking import proven, same_steps
from tests.chaos.reference import uninterrupted
from tests.chaos.stage import Stage, is_alive
from train_jobs.run_files import RunFiles

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def launch(settings, spec, tmp_path):
    """Start the script with a Ray of its own; what is left of it ends with the test."""
    file = tmp_path / "spec.yaml"
    file.write_text(spec.to_yaml())
    script = Path(train_jobs.__file__).parent / "sft.py"
    scratch = tempfile.mkdtemp(prefix="tc-", dir="/tmp")
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": scratch}
    started = []

    def _launch():
        child = subprocess.Popen(
            [sys.executable, str(script), str(file), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        started.append(child)
        return child

    yield _launch
    for child in started:
        if child.poll() is None:
            kill_with_ray(child)
        child.communicate()
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture
def spec(spec):
    return spec.model_copy(update={"standby": 0, "max_steps": 400})


def kill_with_ray(child):
    """End a driver as `kill -9` does, then all that it had started."""
    below = psutil.Process(child.pid).children(recursive=True)
    child.kill()
    child.wait()
    for process in below:
        if process.is_running():
            process.kill()
    psutil.wait_procs(below, timeout=30)
    return below


def test_a_killed_driver_s_run_goes_on_by_the_same_command(launch, settings, spec):
    calm = uninterrupted(spec, settings)
    files = RunFiles(Storage(settings.root), spec.run)
    first = launch()
    stage = Stage(files, first.pid)
    stage.until(lambda: stage.step >= 25, "step 25")
    ended = kill_with_ray(first)
    assert not any(is_alive(process.pid) for process in ended)
    reached = stage.step
    assert reached < spec.max_steps

    second = launch()
    out, _ = second.communicate(timeout=300)
    assert second.returncode == 0, out
    assert json.loads(out)["applied"]
    attempts = files.read_attempts()
    assert len({attempt.launch for attempt in attempts}) == 2
    assert 0 < attempts[-1].resumed_from_step <= reached
    same_steps(stage, calm, exactly=True)
    proven(stage, settings)
