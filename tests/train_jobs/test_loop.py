import math

import pytest
import torch

from cluster.errors import ConflictError, LinnetError
from train_jobs import state
from train_jobs.dataset import load_packed
from train_jobs.group import Group
from train_jobs.loop import Loop
from train_jobs.model import attach_lora, load_base, trainable


@pytest.fixture
def packed(data_file, tiny_dir):
    return load_packed(str(data_file), tiny_dir, max_length=512)


@pytest.fixture
def build(spec, packed, tiny_dir):
    def _build(given=spec, group=None):
        model = attach_lora(load_base(tiny_dir), given.peft, given.seed)
        return Loop(given, model, packed, group or Group())

    return _build


def position(loop, step):
    return state.Position(
        step=step, samples_seen=step * 8, seed=42, learning_rate=1e-3,
        data_fingerprint=loop.dataset.fingerprint, spec_sha256="0",
    )  # fmt: skip


def restored(loop, files):
    return state.restore(files, loop.model, loop.optimizer, data_fingerprint=loop.dataset.fingerprint, rank=0)


def test_the_loss_falls_on_a_batch_seen_again(build, spec):
    loop = build(spec.model_copy(update={"max_steps": 40, "learning_rate": 5e-3}))
    losses = [loop.run_step(step).loss for step in range(1, 41)]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(build):
    whole = build()
    expected = [whole.run_step(step) for step in range(1, 9)]
    first = build()
    for step in range(1, 4):
        first.run_step(step)
    files = state.capture(first.model, first.optimizer, position(first, 3), [state.rng()])
    torch.manual_seed(999)
    second = build()
    assert restored(second, files).step == 3
    assert [second.run_step(step) for step in range(4, 9)] == expected[3:]
    assert all(
        torch.equal(a, b) for a, b in zip(trainable(whole.model), trainable(second.model), strict=True)
    )


def test_dropout_is_drawn_from_seed_and_step_not_from_what_happened_before(build):
    one, two = build(), build()
    torch.manual_seed(1)
    first = one.run_step(1).loss
    torch.manual_seed(2)
    torch.rand(10)
    assert two.run_step(1).loss == first


class _Rank(Group):
    """One of several ranks, computed alone: sums are left to the test."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def sum(self, tensor):
        return tensor


@pytest.mark.parametrize("world", [1, 2, 4])
def test_the_gradient_of_a_step_is_the_same_whatever_the_world_size(build, spec, world):
    spec = spec.model_copy(update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    alone = build(spec)
    samples = list(range(8))
    answers = alone.dataset.answer_tokens(samples)
    alone._backward(1, samples, answers)
    expected = [p.grad for p in alone.parameters]
    ranks = [build(spec, _Rank(rank, world)) for rank in range(world)]
    for rank in ranks:
        rank._backward(1, samples, answers)
    for index, gradient in enumerate(expected):
        added = sum(rank.parameters[index].grad for rank in ranks)
        assert torch.allclose(added, gradient, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_names_the_samples(build):
    loop = build()
    with torch.no_grad():
        loop.parameters[0][0] = math.nan
    before = [p.detach().clone() for p in loop.parameters]
    with pytest.raises(LinnetError) as caught:
        loop.run_step(1)
    assert caught.value.code == "train.not_finite"
    assert any(name in caught.value.message for name in loop.dataset.ids)
    for old, new in zip(before, loop.parameters, strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


def test_changed_data_are_refused(build, spec):
    loop = build()
    files = state.capture(loop.model, loop.optimizer, position(loop, 1), [state.rng()])
    with pytest.raises(ConflictError) as caught:
        state.restore(files, loop.model, loop.optimizer, data_fingerprint="f" * 64, rank=0)
    assert caught.value.code == "train.data_changed"


def test_each_rank_takes_up_its_own_random_state(build):
    loop = build()
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(state.rng())
    files = state.capture(loop.model, loop.optimizer, position(loop, 1), states)
    state.restore(files, loop.model, loop.optimizer, data_fingerprint=loop.dataset.fingerprint, rank=1)
    drawn = torch.rand(3)
    torch.manual_seed(2)
    assert torch.equal(drawn, torch.rand(3))


def test_stop_reaches_the_result(build):
    loop = build()
    assert loop.run_step(1).stop is False
    assert loop.run_step(2, stop=True).stop is True
