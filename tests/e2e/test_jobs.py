"""Training as a Ray job: Ray's own command, the same file, the same result."""

import json

import pytest
import yaml

from cluster.config import Settings
from tests.support.endpoint import MODEL, Endpoint, publish_tiny_versions

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def spec_file(tmp_path):
    rows = [
        {"prompt": f"Is {number} even?", "completion": "no" if number % 2 else "yes"} for number in range(32)
    ]
    data = tmp_path / "parity.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "run": "parity",
        "model": f"{MODEL}-job:v1",
        "data": {"train": str(data)},
        "max_steps": 4,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 2,
        "num_workers": 2,
        "save_steps": 2,
        "publish": {"version": "v2", "adapter_version": "v2-adapter"},
    }
    path = tmp_path / "parity.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def test_ray_job_submit_trains_and_publishes(shared_cluster, shared_settings: Settings, spec_file, tmp_path):
    publish_tiny_versions(shared_settings, tmp_path / "weights", ["v1"], model=f"{MODEL}-job")
    endpoint = Endpoint(shared_cluster, shared_settings, tmp_path)
    submitted = endpoint.command(
        "ray", "job", "submit", "--", "python", "train_jobs/sft.py", str(spec_file), timeout_s=300
    )
    assert submitted.returncode == 0, submitted.stdout[-3000:] + submitted.stderr[-2000:]
    shown = endpoint.linnet("train", "show", "parity")
    assert shown["status"] == "finished"
    listed = endpoint.linnet("models", "list")["data"]
    kinds = {row["version"]: row["kind"] for row in listed if row["model"] == f"{MODEL}-job"}
    assert kinds == {"v1": "base", "v2": "merged", "v2-adapter": "adapter"}
