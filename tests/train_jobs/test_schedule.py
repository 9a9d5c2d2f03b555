import pytest

from train_jobs.schedule import learning_rate, warmup_steps
from train_jobs.spec import SchedulerType


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_rates_equal_those_of_transformers(spec, kind, warmup):
    import torch
    from transformers import get_scheduler

    name = "constant_with_warmup" if kind == "constant" else kind
    spec = spec.model_copy(
        update={"max_steps": 20, "warmup_ratio": warmup, "lr_scheduler_type": SchedulerType(kind)}
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warmup_steps(spec), num_training_steps=20)
    for step in range(1, 21):
        assert learning_rate(spec, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        theirs.step()
