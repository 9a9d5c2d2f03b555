"""Real Ray Train runs of a tiny model: killed, cancelled, interrupted, resumed."""

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

import train_jobs
from cluster.errors import LinnetError
from train_jobs import audit, cancelling, certificate, driver, report, timeline
from train_jobs.certificate import Verdict
from train_jobs.parallel import ParallelSpec, Strategy
from train_jobs.run_files import RunFiles
from train_jobs.spec import DataSpec, FaultTolerance, PublishSpec, WorkersSpec
from train_jobs.spec_files import parse_stored_spec

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

DEADLINE_S = 120


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this process; it ends with the module."""
    import ray

    with tempfile.TemporaryDirectory(prefix="tj-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=directory,
        )
        yield
        ray.shutdown()


@pytest.fixture
def long_spec(spec, data_file):
    return spec.model_copy(
        update={
            "max_steps": 120,
            "save_steps": 10,
            "data": DataSpec(train=str(data_file), validation=str(data_file)),
        }
    )


def until(condition, what):
    limit = time.monotonic() + DEADLINE_S
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"{what} did not happen within {DEADLINE_S} s")


def kill_workers(files: RunFiles, plan: list[tuple[int, int]]) -> threading.Thread:
    """For each (step, rank): once that step is done, SIGKILL that rank of the attempt that did it."""

    def act():
        for step, rank in plan:
            done = until(lambda step=step: [s for s in files.read_steps() if s.step >= step], f"step {step}")
            (attempt,) = [a for a in files.read_attempts() if a.attempt == done[0].attempt]
            os.kill(attempt.workers[rank].pid, signal.SIGKILL)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def losses(files):
    return [
        (s.step, s.loss, s.learning_rate, s.tokens) for s in timeline.last_of_each_step(files.read_steps())
    ]


def test_a_run_that_loses_both_workers_in_turn_has_the_losses_of_one_that_lost_none(
    cluster, settings, store, long_spec, files
):
    calm = long_spec.model_copy(update={"run": "calm"})
    driver.train(calm, settings, stream=io.StringIO())
    # At full strength only, so that the steps are not over before there is a second one to kill.
    waiting = {"workers": WorkersSpec(min=2, max=2)}
    publishing = long_spec.model_copy(
        update={"publish": PublishSpec(version="v2", adapter_version="v2-adapter"), **waiting}
    )
    killer = kill_workers(files, [(25, 0), (65, 1)])
    result = driver.train(publishing, settings, stream=io.StringIO())
    killer.join()

    told = report.describe("run-1", settings)
    assert told["status"] == "finished"
    assert [a["cause"] for a in told["attempts"]] == ["start", "recovery", "recovery"]
    assert told["attempts"][1]["resumed_from_step"] >= 25
    assert told["attempts"][2]["resumed_from_step"] >= 65
    assert [c.verdict for c in certificate.read_certificates(files)] == [Verdict.EQUAL] * 2
    assert told["recovered_s"] > 0
    assert told["pids"] == []
    calm_files = RunFiles(files.storage, "calm")
    assert len(losses(files)) == 120
    assert losses(files) == losses(calm_files)
    weights = [
        (f.storage.local_path(f"{f.checkpoints}/step_120/adapter_model.safetensors")).read_bytes()
        for f in (files, calm_files)
    ]
    assert weights[0] == weights[1]
    assert result.published == ["tiny:v2-adapter", "tiny:v2"] == told["published"]
    assert files.storage.read_bytes(files.plot).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tolerance", "strategy", "verdicts"),
    [
        (FaultTolerance.CONTINUE, "go_on_with_survivors", []),
        (FaultTolerance.RESTART, "prove_and_go_on", [Verdict.EQUAL]),
    ],
)
def test_survivors_go_on_at_once_take_the_newcomer_in_and_learn_the_same(
    cluster, settings, store, long_spec, files, tolerance, strategy, verdicts
):
    spec = long_spec.model_copy(update={"max_steps": 900, "save_steps": 50, "peft": None})
    driver.train(spec.model_copy(update={"run": "calm"}), settings, stream=io.StringIO())
    going_on = spec.model_copy(update={"fault_tolerance": tolerance})
    killer = kill_workers(files, [(75, 0)])
    driver.train(going_on, settings, stream=io.StringIO())
    killer.join()

    assert losses(files) == losses(RunFiles(files.storage, "calm"))
    attempts = files.read_attempts()
    assert [len(attempt.workers) for attempt in attempts] == [2, 1, 2]
    assert [attempt.source for attempt in attempts] == ["checkpoint", "peer", "peer"]
    told = report.describe("run-1", settings)
    assert told["steps_redone"] == 0
    (receipt,) = told["receipts"]
    assert (receipt["failure_class"], receipt["strategy"]) == ("worker_crash", strategy)
    assert [c.verdict for c in certificate.read_certificates(files)] == verdicts
    proven = audit.audit_run("run-1", settings)
    assert (proven.lost, proven.repeated, proven.unproven, proven.steps) == (0, 0, 0, 900)


def test_shards_that_lost_a_worker_go_back_and_have_the_losses_of_those_that_lost_none(
    cluster, settings, store, long_spec, files
):
    spec = long_spec.model_copy(
        update={
            "max_steps": 60,
            "eval_steps": 20,
            "peft": None,
            "parallel": ParallelSpec(strategy=Strategy.FSDP),
        }
    )
    driver.train(spec.model_copy(update={"run": "calm"}), settings, stream=io.StringIO())
    killer = kill_workers(files, [(25, 0)])
    driver.train(spec, settings, stream=io.StringIO())
    killer.join()

    calm = RunFiles(files.storage, "calm")
    assert len(losses(files)) == 60
    assert losses(files) == losses(calm)
    weights = [
        f.storage.local_path(f"{f.checkpoints}/step_60/model.safetensors").read_bytes() for f in (files, calm)
    ]
    assert weights[0] == weights[1]
    attempts = files.read_attempts()
    assert [attempt.source for attempt in attempts] == ["checkpoint", "checkpoint"]
    # The survivor kept its place, and with it its shard.
    assert attempts[0].workers[1].pid == attempts[1].workers[1].pid
    proven = audit.audit_run("run-1", settings)
    assert (proven.lost, proven.repeated, proven.unproven, proven.steps) == (0, 0, 0, 60)


def test_a_lost_checkpoint_is_skipped_and_changed_data_are_refused_at_once(
    cluster, settings, store, long_spec, data_file, files
):
    short = long_spec.model_copy(update={"max_steps": 20})
    driver.train(short, settings, stream=io.StringIO())
    expected = losses(files)
    files.storage.delete_file(f"{files.checkpoints}/step_20/manifest.json")
    out = io.StringIO()
    driver.train(short, settings, stream=out)
    assert losses(files) == expected
    last = files.read_attempts()[-1]
    assert last.resumed_from_step == 10
    assert "step_20" in last.skipped[0]
    assert "never committed" in out.getvalue()
    assert report.describe("run-1", settings)["steps_redone"] == 10

    files.storage.delete_dir(f"{files.checkpoints}/step_20")
    data_file.write_text(data_file.read_text().replace("even", "odd"))
    with pytest.raises(LinnetError) as caught:
        driver.train(short, settings, stream=io.StringIO())
    assert caught.value.code == "train.data_changed"
    told = report.describe("run-1", settings)
    assert told["status"] == "failed"
    assert told["reason"].startswith("train.data_changed")
    # It was not retried, which would have come to the same.
    assert len(told["attempts"]) == 2


def test_more_workers_than_the_cluster_has_cpus_are_refused(cluster, settings, store, spec):
    with pytest.raises(LinnetError, match="64 CPUs"):
        driver.train(spec.model_copy(update={"num_workers": 64}), settings, stream=io.StringIO())


class TestScript:
    """`python train_jobs/sft.py`, with a Ray of its own."""

    @pytest.fixture
    def temp_dir(self):
        """Where Ray keeps its files; a cluster that is gone left its address there."""
        with tempfile.TemporaryDirectory(prefix="tj-", dir="/tmp", ignore_cleanup_errors=True) as directory:
            left = Path(directory, "ray", "ray_current_cluster")
            left.parent.mkdir()
            left.write_text("127.0.0.1:1")
            yield directory

    @pytest.fixture
    def start(self, settings, store, long_spec, tmp_path, temp_dir):
        file = tmp_path / "spec.yaml"
        file.write_text(long_spec.model_copy(update={"max_steps": 20_000}).to_yaml())
        script = Path(train_jobs.__file__).parent / "sft.py"
        started = []

        def _start(*overrides):
            child = subprocess.Popen(
                [sys.executable, str(script), str(file), *overrides, "--json"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": temp_dir},
            )  # fmt: skip
            started.append(child)
            return child

        yield _start
        for child in started:
            child.kill()
            child.communicate()

    def test_stopped_runs_resume_and_a_changed_spec_conflicts(self, start, settings, files):
        first = start()
        until(lambda: len(files.read_steps()) > 30 or first.poll() is not None, "step 30")
        assert first.poll() is None, first.communicate()
        pids = report.describe("run-1", settings)["pids"]
        assert len(pids) == 2
        assert cancelling.cancel("run-1", settings) == "cancelled"
        out, _ = first.communicate(timeout=60)
        assert first.returncode == 130
        assert json.loads(out)["error"]["code"] == "interrupted"
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "end of the workers")

        second = start()
        until(lambda: files.read_steps()[-1].attempt == 2, "the second attempt")
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=60)
        assert second.returncode == 130
        told = report.describe("run-1", settings)
        assert (told["status"], told["reason"]) == ("interrupted", "interrupted")
        assert [a["cause"] for a in told["attempts"]] == ["start", "command"]
        assert told["attempts"][1]["resumed_from_step"] >= 30

        conflicting = start("max_steps=30")
        out, _ = conflicting.communicate(timeout=60)
        assert conflicting.returncode == 1
        assert "`max_steps`" in json.loads(out)["error"]["message"]


@pytest.mark.slow
def test_epochs_of_packs_survive_a_lost_worker_and_every_sample_is_proven(
    cluster, settings, store, long_spec, files
):
    epochs = {"max_steps": 0, "num_train_epochs": 12.5, "packing": True, "max_length": 256}
    batch = {"per_device_train_batch_size": 2, "save_steps": 5, "eval_steps": 10}
    given = long_spec.model_copy(update=epochs | batch)
    driver.train(given.model_copy(update={"run": "calm"}), settings, stream=io.StringIO())
    out = io.StringIO()
    killer = kill_workers(files, [(12, 1)])
    result = driver.train(given, settings, stream=out)
    killer.join()

    stored = parse_stored_spec(files.storage.read_bytes(files.spec).decode(), files.spec)
    packs = int(re.search(r"packed 64 samples in (\d+) rows", out.getvalue())[1])
    assert packs < 64 / 2
    assert (stored.num_train_epochs, stored.max_steps) == (12.5, math.ceil(12.5 * packs / 4))
    assert result.step == stored.max_steps
    assert losses(files) == losses(RunFiles(files.storage, "calm"))
    told = report.describe("run-1", settings)
    assert (told["status"], told["total_steps"]) == ("finished", stored.max_steps)
    found = audit.audit(files, stored)
    assert (found.is_proven, found.lost, found.repeated) == (True, 0, 0)
    again = driver.train(given, settings, stream=io.StringIO())
    assert (again.trained, again.step) == (False, stored.max_steps)
