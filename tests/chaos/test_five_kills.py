"""A run that is killed five times against one that nothing happened to, whole files side by side."""

import hashlib
import io
import json

import pytest

from cluster.recovery.classes import FailureClass
from cluster.storage import Storage
from tests.chaos.checking import proven, receipted
from tests.chaos.kinds import Kind
from tests.chaos.monkey import shuffled
from train_jobs import certificate, checkpoint, driver, ledger
from train_jobs.certificate import Verdict
from train_jobs.run_files import RunFiles
from train_jobs.spec import FaultTolerance, Method, PeftSpec, QuantizationSpec, WorkersSpec

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

# kill_during_recovery ends two processes.
FIVE = {Kind.KILL_WORKER: 2, Kind.KILL_DURING_SAVE: 1, Kind.KILL_DURING_RECOVERY: 1}
STEPS = 300
LORA = PeftSpec(r=4, lora_dropout=0.1)
NF4 = QuantizationSpec(load_in_4bit=True, bnb_4bit_quant_type="nf4")
GOING_ON = {"fault_tolerance": FaultTolerance.CONTINUE, "num_workers": 3, "workers": None, "max_steps": 1000}
ELASTIC = {"workers": WorkersSpec(min=1, max=2), "num_workers": 1, "standby": 0, "max_steps": 800}
COMPARED = ("step", "loss", "grad_norm", "learning_rate", "tokens", "applied", "metrics", "eval")


@pytest.mark.parametrize(
    ("seed", "changes"),
    [
        pytest.param(1, {"peft": LORA}, id="sft-lora"),
        pytest.param(2, {"peft": None}, id="sft-full"),
        pytest.param(3, {"peft": LORA, "quantization": NF4}, id="qlora"),
        pytest.param(4, {"peft": LORA, "method": Method.DPO}, id="dpo"),
        pytest.param(5, {"peft": LORA, **GOING_ON}, id="sft-lora-continue"),
        pytest.param(6, {"peft": LORA, **ELASTIC}, id="sft-lora-elastic"),
    ],
)
def test_five_kills_leave_no_trace_in_what_was_learned(struck, settings, spec, preferences, seed, changes):
    if changes.get("method") is Method.DPO:
        rows = {"train": str(preferences), "validation": str(preferences)}
        changes = changes | {"data": spec.data.model_copy(update=rows)}
    spec = spec.model_copy(update={"max_steps": STEPS, "save_steps": 5} | changes)
    calm = spec.model_copy(update={"run": "calm", "standby": 0})
    driver.train(calm, settings, stream=io.StringIO())
    stage, strikes = struck(spec, shuffled(FIVE, seed), seed)

    assert sum(len(strike.pids) for strike in strikes) == 5
    uninterrupted = RunFiles(Storage(settings.root), calm.run)
    same_losses(stage.files, uninterrupted, spec.max_steps)
    assert samples(stage.files) == samples(uninterrupted)
    assert weights_sha256(stage.files, spec.max_steps) == weights_sha256(uninterrupted, spec.max_steps)
    proven(stage, settings)
    receipted(strikes, stage.receipts())
    assert sum(r.failure_class is not FailureClass.SLOW_RANK for r in stage.receipts()) == 5
    certified(stage, spec.fault_tolerance)


def same_losses(files, uninterrupted, steps):
    """Every line that either run wrote, repeated ones too, is that of the other's same step."""
    expected = dict(lines(uninterrupted))
    assert sorted(expected) == list(range(1, steps + 1))
    assert len(set(expected.values())) == steps
    written = lines(files)
    assert {step for step, _ in written} == set(expected)
    assert [line for step, line in written] == [expected[step] for step, _ in written]


def lines(files):
    """(step, text) of each line of metrics.jsonl, as it stands there, without times and attempts."""
    text = files.storage.read_bytes(files.metrics).decode()
    whole = [json.loads(line) for line in text.splitlines()]
    return [(line["step"], json.dumps({key: line[key] for key in COMPARED})) for line in whole]


def samples(files):
    """Step to the indices of what it trained, in order, from the ledger of the newest checkpoint."""
    head = checkpoint.discover(files).newest.manifest.ledger
    segments = ledger.chain(files, head)
    return {entry.step: entry.samples for segment in segments for entry in segment.entries()}


def weights_sha256(files, step):
    """Of the trained weights, by file name, as they lie there."""
    found = files.storage.local_path(f"{files.checkpoints}/step_{step}").glob("*model.safetensors")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def certified(stage, tolerance):
    """Every restore was proven; a run that goes on need not have had one."""
    verdicts = [found.verdict for found in certificate.read_certificates(stage.files)]
    assert verdicts or tolerance is FaultTolerance.CONTINUE
    assert set(verdicts) <= {Verdict.EQUAL}
