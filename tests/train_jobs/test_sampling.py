from hypothesis import given
from hypothesis import strategies as st

from train_jobs.sampling import draw_seed, microbatches_of, split_microbatches, step_samples

seeds = st.integers(min_value=0, max_value=2**32)


def order(seed, size, count, batch):
    steps = -(-count // batch)
    found = [
        i for s in range(1, steps + 1) for i in step_samples(seed, s, dataset_size=size, batch_size=batch)
    ]
    return found[:count]


@given(seeds, st.integers(1, 300), st.integers(1, 3))
def test_each_pass_over_the_data_takes_every_sample_once(seed, size, epochs):
    found = order(seed, size, size * epochs, batch=7)
    for epoch in range(epochs):
        assert sorted(found[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(seeds, st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_the_global_order_does_not_depend_on_the_batch_size(seed, size, one, other):
    assert order(seed, size, 100, one) == order(seed, size, 100, other)


@given(seeds, st.integers(1, 50), st.integers(1, 6), st.integers(1, 6), st.integers(1, 8))
def test_whatever_the_world_size_the_ranks_train_the_same_batch_exactly_once(seed, step, rows, count, world):
    batch = step_samples(seed, step, dataset_size=97, batch_size=rows * count)
    parts = split_microbatches(batch, rows)
    taken = sorted(index for rank in range(world) for index in microbatches_of(rank, world, len(parts)))
    assert taken == list(range(count))
    assert [sample for part in parts for sample in part] == batch


@given(seeds, st.integers(1, 10_000), st.integers(10**6, 10**8))
def test_a_huge_dataset_needs_no_more_than_the_step_asked_for(seed, step, size):
    found = step_samples(seed, step, dataset_size=size, batch_size=4)
    assert len(found) == 4
    assert all(0 <= index < size for index in found)


def test_seeds_and_epochs_give_other_orders():
    first = order(1, 50, 100, 10)
    assert first != order(2, 50, 100, 10)
    assert first[:50] != first[50:]
    assert first[:50] != list(range(50))


def test_draws_differ_by_step_and_microbatch_and_fit_torch():
    found = {draw_seed(seed, step, part) for seed in range(3) for step in range(20) for part in range(8)}
    assert len(found) == 3 * 20 * 8
    assert all(0 <= value < 2**63 for value in found)
