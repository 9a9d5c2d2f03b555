"""One sample whose loss is not a number: the run names it and its batch, and no weight learns from it."""

import io
import json
import math

import pytest
from safetensors.torch import load_file

from cluster.errors import LinnetError
from cluster.manifest import VersionKind
from cluster.recovery import receipts
from cluster.recovery.classes import FailureClass
from cluster.recovery.situation import Strategy
from cluster.refs import VersionRef
from cluster.registry import ModelStore
from cluster.storage import Storage
from tests.chaos.kinds import Kind
from tests.chaos.reference import uninterrupted
from tests.support.poison import LETTER, make_poisoned_model
from train_jobs import audit, certificate, driver, sampling, timeline
from train_jobs.certificate import Verdict
from train_jobs.dataset import load_dataset
from train_jobs.run_files import RunFiles
from train_jobs.spec import BadLoss, PeftSpec

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

POISONED_ROW = 37
BATCH = 8
STEPS = 80


@pytest.fixture
def base(settings, tmp_path):
    """The poisoned model as tiny:poisoned, in the store like any other."""
    ref = VersionRef(model="tiny", version="poisoned")
    weights = make_poisoned_model(tmp_path / "poisoned")
    ModelStore.open(settings).publish(weights, ref, kind=VersionKind.BASE, source_label="tests")
    return ref


@pytest.fixture
def questions(questions):
    """One of the 64 questions holds the letter."""
    rows = [json.loads(line) for line in questions.read_text().splitlines()]
    rows[POISONED_ROW]["messages"][0]["content"] += LETTER
    questions.write_text("\n".join(map(json.dumps, rows)))
    return questions


@pytest.fixture
def spec(spec, base):
    changed = {"model": str(base), "max_steps": STEPS, "peft": PeftSpec(r=4), "eval_steps": None}
    return spec.model_copy(update=changed)


@pytest.fixture
def poisoned(spec, settings, base):
    """Step to the ids of its samples, of the steps that train the sample with the letter; and its id."""
    dataset = load_dataset(spec, ModelStore.open(settings).local_dir(base), spec.data.train)
    assert len(dataset) == 64
    found = {}
    for step in range(1, STEPS + 1):
        batch = sampling.step_samples(spec.seed, step, dataset_size=64, batch_size=BATCH)
        if POISONED_ROW in batch:
            found[step] = [dataset.ids[index] for index in batch]
    # Each pass over the data has it once.
    assert len(found) == pytest.approx(STEPS * BATCH / 64, abs=1)
    return found, dataset.ids[POISONED_ROW]


def test_a_batch_that_is_not_finite_ends_the_run_and_is_named(cluster, settings, spec, poisoned):
    steps, culprit = poisoned
    first = min(steps)
    with pytest.raises(LinnetError) as caught:
        driver.train(spec, settings, stream=io.StringIO())
    assert caught.value.code == "train.not_finite"
    assert f"Step {first} " in caught.value.message
    assert named(caught.value.message) == steps[first]
    assert culprit in steps[first]
    files = RunFiles(Storage(settings.root), spec.run)
    assert [step.step for step in files.read_steps() if step.applied] == list(range(1, first))
    (receipt,) = receipts.read(files.storage, files.receipts)
    assert (receipt.failure_class, receipt.strategy) == (FailureClass.BAD_LOSS, Strategy.STOP)
    assert list(receipt.samples) == steps[first]


def test_a_skipped_batch_is_named_and_leaves_the_weights_alone(struck, settings, spec, poisoned):
    steps, culprit = poisoned
    failures = spec.failures.model_copy(update={"on_bad_loss": BadLoss.SKIP})
    spec = spec.model_copy(update={"failures": failures})
    expected = uninterrupted(spec, settings)
    stage, _ = struck(spec, [Kind.KILL_WORKER], 1)

    records = timeline.last_of_each_step(stage.files.read_steps())
    assert [record.step for record in records if not record.applied] == sorted(steps)
    assert not any(math.isfinite(record.loss) for record in records if not record.applied)
    assert [repr(record.loss) for record in records] == [repr(told.loss) for told in expected]
    warned = [line for line in log_lines(stage.files) if "skipped: Step" in line]
    for step, ids in steps.items():
        (*_, line) = [line for line in warned if f"Step {step} " in line]
        assert named(line) == ids
        assert culprit in ids

    assert [kept for kept in stage.receipts() if kept.failure_class is FailureClass.WORKER_CRASH]
    skipped = [kept for kept in stage.receipts() if kept.failure_class is FailureClass.BAD_LOSS]
    assert {kept.strategy for kept in skipped} == {Strategy.SKIP_BATCH}
    assert [list(kept.samples) for kept in skipped] == [ids for _, ids in sorted(steps.items())]

    told = audit.audit_run(spec.run, settings)
    assert told.is_proven
    assert told.skipped == len(steps) * BATCH
    verdicts = {found.verdict for found in certificate.read_certificates(stage.files)}
    assert verdicts <= {Verdict.EQUAL}
    last = stage.checkpoint(STEPS)
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(last / file).values())


def named(told):
    """The ids behind `its samples are`, in order."""
    return told.partition("its samples are ")[2].rstrip(".").split(", ")


def log_lines(files):
    logs = files.storage.local_path(files.logs)
    return [line for path in sorted(logs.glob("attempt_*")) for line in path.read_text().splitlines()]
