import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from train_jobs.optimizers import fill_state, make_optimizer, scalars, set_scalars, state_tensors
from train_jobs.spec import DataSpec, Optimizer, TrainSpec

KINDS = pytest.mark.parametrize("optim", list(Optimizer))


def make_spec(optim=Optimizer.ADAMW, **keys) -> TrainSpec:
    return TrainSpec(
        run="r", model="m:v1", data=DataSpec(train="d"), max_steps=1, learning_rate=0.01, optim=optim, **keys
    )


def make_parameters() -> list[torch.nn.Parameter]:
    """A matrix that 8-bit Adam quantizes, one too small for that, and a bias."""
    generator = torch.Generator().manual_seed(1)
    return [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((96, 64), (8, 4), (64,))
    ]


def train(optimizer, parameters, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_the_names_of_hugging_face_give_these_optimizers_with_the_specs_numbers():
    from bitsandbytes.optim import AdamW8bit

    kinds = {
        Optimizer.ADAMW: torch.optim.AdamW,
        Optimizer.ADAMW_8BIT: AdamW8bit,
        Optimizer.SGD: torch.optim.SGD,
    }
    for optim, kind in kinds.items():
        spec = make_spec(optim, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-6)
        optimizer = make_optimizer(spec, make_parameters())
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["lr"] == 0.01
        if optim is not Optimizer.SGD:
            assert tuple(optimizer.param_groups[0]["betas"]) == (0.8, 0.9)
            assert optimizer.param_groups[0]["eps"] == 1e-6


@KINDS
def test_matrices_decay_and_norms_and_biases_do_not(optim):
    parameters = make_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    optimizer = make_optimizer(make_spec(optim, weight_decay=0.5), parameters)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, old in zip(parameters, before, strict=True):
        expected = old if parameter.dim() == 1 else old * (1 - 0.01 * 0.5)
        assert torch.allclose(parameter, expected, atol=1e-7)


@KINDS
def test_state_created_in_advance_changes_no_step(optim):
    lazy, eager = make_parameters(), make_parameters()
    for parameters, fill in ((lazy, False), (eager, True)):
        optimizer = make_optimizer(make_spec(optim, weight_decay=0.1), parameters)
        if fill:
            fill_state(optimizer)
            assert bool(state_tensors(optimizer)) == (optim is not Optimizer.SGD)
        train(optimizer, parameters, 3)
    assert all(torch.equal(a, b) for a, b in zip(lazy, eager, strict=True))


def test_filling_again_keeps_what_is_there():
    parameters = make_parameters()
    optimizer = make_optimizer(make_spec(), parameters)
    train(optimizer, parameters, 2)
    before = {name: tensor.clone() for name, tensor in state_tensors(optimizer).items()}
    fill_state(optimizer)
    assert all(torch.equal(before[name], tensor) for name, tensor in state_tensors(optimizer).items())
    assert before["0.step"] == 2
    assert before["0.exp_avg"].any()


def test_eight_bit_state_has_its_codes_scales_and_each_shared_map_once():
    optimizer = make_optimizer(make_spec(Optimizer.ADAMW_8BIT), make_parameters())
    found = state_tensors(optimizer)
    assert {tensor.dtype for name, tensor in found.items() if name in ("0.state1", "0.state2")} == {
        torch.uint8
    }
    assert {"0.absmax1", "0.absmax2", "0.qmap1", "0.qmap2"} < found.keys()
    assert len([name for name in found if "qmap" in name]) == 2
    assert found["1.state1"].dtype is torch.float32
    assert scalars(optimizer) == {"0.step": 0, "1.step": 0, "2.step": 0}


@KINDS
@hypothesis_settings(max_examples=8, deadline=None)
@given(steps=st.integers(0, 4))
def test_a_peer_that_takes_tensors_and_numbers_over_goes_on_equally(optim, steps):
    ours, theirs = make_parameters(), make_parameters()
    mine, peer = (make_optimizer(make_spec(optim), parameters) for parameters in (ours, theirs))
    train(mine, ours, steps)
    with torch.no_grad():
        for source, target in zip(ours, theirs, strict=True):
            target.copy_(source)
        names = list(state_tensors(mine))
        assert names == list(state_tensors(peer))
        for name in names:
            state_tensors(peer)[name].copy_(state_tensors(mine)[name])
    set_scalars(peer, scalars(mine))
    train(mine, ours, 2, first=steps)
    train(peer, theirs, 2, first=steps)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
