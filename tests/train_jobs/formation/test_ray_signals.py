import pytest

from cluster.errors import LinnetError, StorageError
from cluster.recovery.classes import Signal
from train_jobs.formation.ray_signals import signal_of


@pytest.mark.parametrize(
    ("error", "signal"),
    [
        (LinnetError("nan", code="train.not_finite"), Signal.NOT_FINITE),
        (LinnetError("9.0", code="train.bad_loss"), Signal.SPIKE),
        (LinnetError("9.0", code="train.diverged"), Signal.SPIKE),
        (StorageError("full", code="storage.full"), Signal.STORAGE_ERROR),
        (MemoryError(), Signal.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory"), Signal.OUT_OF_MEMORY),
        (ValueError("x"), Signal.RAISED),
    ],
)
def test_what_a_worker_raised_has_a_signal(error, signal):
    assert signal_of(error) is signal
