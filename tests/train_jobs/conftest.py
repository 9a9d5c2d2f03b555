import json
from pathlib import Path

import pytest

from cluster.config import Settings
from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from tests.support.tiny_model import make_tiny_model
from train_jobs.run_files import RunFiles
from train_jobs.spec import DataSpec, PeftSpec, TrainSpec

BASE = VersionRef(model="tiny", version="v1")


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """A home of its own for each test."""
    for name in ("LINNET_ROOT", "LINNET_STATE_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LINNET_HOME", str(tmp_path / "home"))
    return Settings.load()


@pytest.fixture
def files(settings) -> RunFiles:
    return RunFiles(Storage(settings.root), "run-1")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def store(settings, tiny_dir) -> ModelStore:
    """A model store that holds the tiny model as tiny:v1."""
    opened = ModelStore.open(settings)
    opened.publish(tiny_dir, BASE, kind=VersionKind.BASE, source_label="tests")
    return opened


@pytest.fixture
def data_file(tmp_path) -> Path:
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
def spec(data_file) -> TrainSpec:
    """Eight steps of eight samples for the tiny model."""
    return TrainSpec(
        run="run-1",
        model="tiny:v1",
        data=DataSpec(train=str(data_file)),
        max_steps=8,
        learning_rate=1e-3,
        per_device_train_batch_size=4,
        num_workers=2,
        save_steps=3,
        peft=PeftSpec(r=4, lora_dropout=0.1),
    )
