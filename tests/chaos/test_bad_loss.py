"""One sample with a token whose embedding is far out of range: its steps have no finite loss."""

import io
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import LinnetError
from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from tests.support.tiny_model import make_tiny_model
from train_jobs import audit, driver, timeline
from train_jobs.run_files import RunFiles
from train_jobs.spec import BadLoss

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

RARE, AT = "\x7f", 40


@pytest.fixture
def poisoned(cluster, settings, spec, questions, tmp_path):
    """A run in whose data row `AT` alone has the rare token; two epochs of eight steps."""
    from transformers import AutoTokenizer

    directory = make_tiny_model(tmp_path / "poisoned")
    (token,) = AutoTokenizer.from_pretrained(directory)(RARE, add_special_tokens=False).input_ids
    file = directory / "model.safetensors"
    weights = load_file(file)
    weights["model.embed_tokens.weight"][token] = torch.tensor(1e38)
    save_file(weights, file, metadata={"format": "pt"})
    ModelStore.open(settings).publish(
        directory,
        VersionRef(model="poisoned", version="v1"),
        kind=VersionKind.BASE,
        source_label="tests",
    )
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[AT]["messages"][0]["content"] += RARE
    questions.write_text("\n".join(map(json.dumps, rows)))
    return spec.model_copy(update={"model": "poisoned:v1", "max_steps": 16, "standby": 0, "run": "poisoned"})


def with_policy(spec, policy):
    failures = spec.failures.model_copy(update={"on_bad_loss": policy})
    return spec.model_copy(update={"failures": failures, "run": f"{spec.run}-{policy.value}"})


def test_skipping_goes_on_without_the_bad_batches_and_stopping_names_their_samples(poisoned, settings):
    skipping, stopping = with_policy(poisoned, BadLoss.SKIP), with_policy(poisoned, BadLoss.STOP)
    driver.train(skipping, settings, stream=io.StringIO())
    files = RunFiles(Storage(settings.root), skipping.run)
    records = timeline.last_of_each_step(files.read_steps())
    bad = [record for record in records if not record.applied]
    assert len(records) == 16
    # Once an epoch.
    assert len(bad) == 2
    assert not any(math.isfinite(record.grad_norm) and math.isfinite(record.loss) for record in bad)
    assert all(math.isfinite(record.loss) for record in records if record.applied)
    told = audit.audit_run(skipping.run, settings)
    assert told.is_proven
    assert told.skipped == 2 * skipping.global_batch_size
    logs = files.storage.local_path(files.logs)
    assert any(f"questions.jsonl:{AT}" in path.read_text() for path in logs.glob("attempt_*"))

    with pytest.raises(LinnetError) as caught:
        driver.train(stopping, settings, stream=io.StringIO())
    assert caught.value.code == "train.not_finite"
    assert f"Step {bad[0].step} " in caught.value.message
    assert f"questions.jsonl:{AT}" in caught.value.message
