"""The step itself: the same bits for any number of members, and nothing lost when one of them goes."""

import threading

import pytest
import torch
import torch.distributed as dist

from train_jobs import model as models
from train_jobs.dataset import load_packed
from train_jobs.formation.group import Group, GroupLostError
from train_jobs.layout import Whole
from train_jobs.loop import Loop, Wishes
from train_jobs.objectives import make_objective
from train_jobs.optimizers import make_optimizer
from train_jobs.sampling import step_samples


def quiet(*_):
    """No marks."""


@pytest.fixture
def make(spec, tiny_dir):
    """A fresh loop for a spec, always from the same weights."""

    def _make(given=spec):
        model = models.build(given, tiny_dir, "tiny:v1")
        dataset = load_packed(given.data.train, tiny_dir, given.max_length)
        optimizer = make_optimizer(given, models.trainable(model))
        return Loop(given, Whole(model, optimizer), make_objective(given, dataset, model), len(dataset))

    return _make


def weights(loop):
    return torch.cat([p.detach().flatten() for p in models.trainable(loop.model)])


def train_alone(loop, steps):
    return [loop.run_step(step, Group(), Wishes(), quiet) for step in steps]


def train_together(loops, steps, generation=1):
    """The steps on one thread a member, over a real group; results of all members."""
    meeting = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    results = [None] * len(loops)

    def run(rank):
        group = Group.form(("127.0.0.1", meeting.port), generation, rank, len(loops), lambda: False)
        results[rank] = [loops[rank].run_step(step, group, Wishes(), quiet) for step in steps]

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(loops))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


def facts(result):
    return (result.step, result.samples, result.loss, result.grad_norm, result.learning_rate, result.draws)


def test_one_member_and_slots_of_its_own_give_the_same_bits_as_that_many_members(make, spec):
    # Dropout draws from torch's generator, of which threads share one: the two-member run has none.
    calm = spec.model_copy(update={"peft": spec.peft.model_copy(update={"lora_dropout": 0.0})})
    alone = make(calm)
    expected = train_alone(alone, range(1, 4))
    pair = [make(calm), make(calm)]
    for found in train_together(pair, range(1, 4)):
        assert [facts(one) for one in found] == [facts(one) for one in expected]
    assert torch.equal(weights(pair[0]), weights(alone))
    assert torch.equal(weights(pair[1]), weights(alone))


def test_the_samples_on_record_are_those_that_the_seed_prescribes(make, spec):
    loop = make()
    for result in train_alone(loop, range(1, 6)):
        assert result.samples == step_samples(spec.seed, result.step, dataset_size=64, batch_size=8)


class Dying:
    """A group of two of which the other is gone: every exchange fails."""

    rank, size = 0, 2

    def sum(self, tensor):
        raise GroupLostError("gone")


def test_a_survivor_keeps_what_it_had_computed_and_the_weights_as_they_were(make):
    expected = make()
    (first,) = train_alone(expected, [1])
    loop = make()
    before = weights(loop).clone()
    with pytest.raises(GroupLostError):
        loop.run_step(1, Dying(), Wishes(), quiet)
    assert torch.equal(weights(loop), before)
    computed = []
    plain = loop.objective.loss
    object.__setattr__(loop.objective, "loss", lambda model, few: computed.append(few) or plain(model, few))
    result = loop.run_step(1, Group(), Wishes(), quiet)
    assert facts(result) == facts(first)
    # Its own slot is not computed a second time.
    assert len(computed) == 1


def test_what_was_computed_with_other_weights_is_forgotten(make):
    loop = make()
    with pytest.raises(GroupLostError):
        loop.run_step(1, Dying(), Wishes(), quiet)
    with torch.no_grad():
        for parameter in models.trainable(loop.model):
            parameter.add_(0.01)
    loop.forget()
    fresh = make()
    with torch.no_grad():
        for parameter in models.trainable(fresh.model):
            parameter.add_(0.01)
    assert facts(train_alone(loop, [1])[0]) == facts(train_alone(fresh, [1])[0])


def test_smaller_microbatches_keep_the_batch_and_nearly_the_loss(make, spec):
    whole, cut = make(), make()
    cut.microbatch_divisor = 4
    (one,), (other,) = train_alone(whole, [1]), train_alone(cut, [1])
    assert one.samples == other.samples
    assert other.loss == pytest.approx(one.loss, rel=1e-2)


def test_a_loss_that_is_not_finite_leaves_the_weights(make, spec):
    loop = make()
    train_alone(loop, [1])
    with torch.no_grad():
        models.trainable(loop.model)[0].fill_(float("inf"))
    before = weights(loop).clone()
    (result,) = train_alone(loop, [2])
    assert not result.applied
    assert torch.equal(weights(loop), before)
    assert len(result.samples) == spec.global_batch_size


def test_accumulation_spreads_microbatches_over_slots_in_turn(make, spec):
    deep = spec.model_copy(update={"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    (result,) = train_alone(make(deep), [1])
    assert result.samples == step_samples(spec.seed, 1, dataset_size=64, batch_size=8)
