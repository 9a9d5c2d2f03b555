import pytest

from train_jobs.schedule import learning_rate, warmup_steps
from train_jobs.spec import SchedulerType

TOTAL = 20


def scheduled(spec, **changes):
    return spec.model_copy(update={"max_steps": TOTAL, **changes})


@pytest.mark.parametrize("kind", list(SchedulerType))
@pytest.mark.parametrize("warmup", [0, 1, 5, TOTAL])
def test_rates_equal_those_of_transformers(spec, kind, warmup):
    import torch
    from transformers import get_scheduler

    spec = scheduled(spec, warmup_steps=warmup, lr_scheduler_type=kind)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=spec.learning_rate)
    theirs = get_scheduler(kind.value, optimizer, num_warmup_steps=warmup, num_training_steps=TOTAL)
    for step in range(1, TOTAL + 1):
        assert learning_rate(spec, step) == pytest.approx(theirs.get_last_lr()[0], rel=1e-12, abs=1e-15)
        optimizer.step()
        theirs.step()


def test_constant_is_at_its_full_value_from_the_first_step(spec):
    flat = scheduled(spec, warmup_steps=5, lr_scheduler_type=SchedulerType.CONSTANT)
    assert warmup_steps(flat) == 0
    assert {learning_rate(flat, step) for step in range(1, TOTAL + 1)} == {spec.learning_rate}


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"),
    [(0.0, 0, 0), (0.1, 0, 2), (0.11, 0, 3), (1.0, 0, TOTAL), (0.1, 7, 7), (0.0, 3, 3)],
)
def test_warmup_steps_win_over_the_ratio_which_rounds_up(spec, ratio, steps, expected):
    assert warmup_steps(scheduled(spec, warmup_ratio=ratio, warmup_steps=steps)) == expected
