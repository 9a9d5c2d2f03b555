import io
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.config import Settings
from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from tests.chaos import checking
from tests.chaos.checking import check
from tests.chaos.monkey import Monkey
from tests.chaos.reference import uninterrupted
from tests.chaos.stage import Stage
from tests.support.tiny_model import make_tiny_model
from train_jobs import driver, fit
from train_jobs.run_files import RunFiles
from train_jobs.spec import DataSpec, FailuresSpec, PeftSpec, TrainSpec, WorkersSpec


def pytest_terminal_summary(terminalreporter):
    """The receipts and the audit of each run that was struck, also of those that passed."""
    for report in checking.REPORTS:
        terminalreporter.section("a run under chaos")
        for line in report:
            terminalreporter.write_line(line)


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """A home of its own, with the tiny model as tiny:v1."""
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    known = Settings.load()
    ModelStore.open(known).publish(
        make_tiny_model(tmp_path / "tiny"),
        VersionRef(model="tiny", version="v1"),
        kind=VersionKind.BASE,
        source_label="tests",
    )
    return known


@pytest.fixture
def questions(tmp_path):
    """64 questions of different lengths with a one-word answer."""
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Is {number} even?{' Really?' * (number % 5)}"},
                {"role": "assistant", "content": "no" if number % 2 else "yes"},
            ]
        }
        for number in range(64)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def preferences(tmp_path):
    """64 questions with a right and a wrong answer."""
    path = tmp_path / "preferences.jsonl"
    rows = [
        {
            "prompt": f"Is {number} even?{' Really?' * (number % 3)}",
            "chosen": ("yes", "not at all")[number % 2],
            "rejected": ("not at all", "yes")[number % 2],
        }
        for number in range(64)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def spec(questions) -> TrainSpec:
    """Steps of a few milliseconds, so that a dozen failures fit into minutes."""
    return TrainSpec(
        run="struck",
        model="tiny:v1",
        data=DataSpec(train=str(questions), validation=str(questions)),
        eval_steps=25,
        # Several batches a worker, so that a failure can come between them.
        per_device_eval_batch_size=4,
        max_steps=600,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        num_workers=2,
        # At full strength only, so that there is somebody to strike however quick the steps are.
        workers=WorkersSpec(min=2, max=2),
        standby=1,
        save_steps=10,
        peft=PeftSpec(r=4, lora_dropout=0.1),
        failures=FailuresSpec(max_failures=-1, hang_timeout_s=6.0),
    )


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this process; it ends with the module."""
    fit.set_environment()
    import ray

    with tempfile.TemporaryDirectory(prefix="tc-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        ray.init(
            address="local",
            num_cpus=6,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _temp_dir=directory,
        )
        yield
        ray.shutdown()


@pytest.fixture
def meddled(cluster, settings):
    """Train a spec while somebody does something to it; the stage and what that came to."""

    def _meddled(spec, meddle):
        stage = Stage(RunFiles(Storage(settings.root), spec.run), os.getpid(), eval_steps=spec.eval_steps)
        with ThreadPoolExecutor(1) as pool:
            meddling = pool.submit(meddle, stage)
            try:
                result = driver.train(spec, settings, stream=io.StringIO())
            finally:
                stage.over.set()
            done = meddling.result(timeout=10)
        assert (result.trained, result.step) == (True, spec.max_steps)
        return stage, done

    return _meddled


@pytest.fixture
def struck(meddled):
    """Train a spec while a monkey carries out a plan; the stage and what the monkey did."""

    def _struck(spec, plan, seed):
        return meddled(spec, lambda stage: Monkey(stage, plan, seed).carry_out())

    return _struck


@pytest.fixture
def strike(struck, settings):
    """Train a spec while a monkey carries out a plan, and check all that must hold afterwards."""

    def _strike(spec, plan, seed):
        calm = uninterrupted(spec, settings)
        stage, strikes = struck(spec, plan, seed)
        check(stage, spec, settings, strikes, calm)
        return stage

    return _strike
