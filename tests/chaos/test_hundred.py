"""A hundred failures and more over several ways to train: methods, numbers of workers, and tolerance."""

import pytest

from tests.chaos.kinds import Kind
from tests.chaos.monkey import shuffled
from train_jobs.spec import FaultTolerance, Method, PeftSpec, WorkersSpec

# Ray Data, which Ray Train imports, warns of its own settings.
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

# Strikes of one run; kill_during_recovery and kill_during_start end two processes each.
SEVENTEEN = {
    Kind.KILL_WORKER: 2,
    Kind.KILL_DURING_EVALUATION: 2,
    Kind.FREEZE_WORKER: 2,
    Kind.KILL_DURING_START: 2,
    Kind.KILL_DURING_SAVE: 3,
    Kind.KILL_DURING_RECOVERY: 2,
    Kind.TORN_CHECKPOINT: 2,
    Kind.STORAGE_REFUSED: 1,
    Kind.SLOW_RANK: 1,
}
LORA = PeftSpec(r=4, lora_dropout=0.1)
STEPS = {FaultTolerance.RESTART: 1000, FaultTolerance.CONTINUE: 4000}


@pytest.mark.parametrize(
    ("method", "peft", "tolerance", "workers"),
    [
        (Method.SFT, LORA, FaultTolerance.RESTART, 2),
        (Method.SFT, LORA, FaultTolerance.CONTINUE, 3),
        (Method.SFT, None, FaultTolerance.RESTART, 3),
        (Method.SFT, None, FaultTolerance.CONTINUE, 2),
        (Method.DPO, LORA, FaultTolerance.RESTART, 3),
        (Method.DPO, LORA, FaultTolerance.CONTINUE, 2),
    ],
    ids=lambda value: getattr(value, "value", None) or ("full" if value is None else str(value)[:6]),
)
def test_a_hundred_failures_change_nothing(strike, spec, preferences, method, peft, tolerance, workers):
    seed = 100 * workers + list(FaultTolerance).index(tolerance) * 10 + list(Method).index(method)
    waits = tolerance is FaultTolerance.RESTART
    rows = {"train": str(preferences), "validation": str(preferences)}
    data = spec.data.model_copy(update=rows) if method is Method.DPO else spec.data
    changed = spec.model_copy(
        update={
            "method": method,
            "peft": peft,
            "data": data,
            "fault_tolerance": tolerance,
            "num_workers": workers,
            "workers": WorkersSpec(min=workers, max=workers) if waits else None,
            "max_steps": STEPS[tolerance],
        }
    )
    strike(changed, shuffled(SEVENTEEN, seed), seed)
