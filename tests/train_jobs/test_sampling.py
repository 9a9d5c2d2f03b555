import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train_jobs.sampling import (
    draw_seed,
    positions,
    slot_microbatches,
    slots_of,
    split_microbatches,
    step_samples,
)

seeds = st.integers(min_value=0, max_value=2**70)
near_powers = st.builds(lambda bits, off: max(1, 2**bits + off), st.integers(0, 12), st.integers(-1, 1))


def order(seed, size, count, batch):
    steps = -(-count // batch)
    found = [
        i for s in range(1, steps + 1) for i in step_samples(seed, s, dataset_size=size, batch_size=batch)
    ]
    return found[:count]


@given(seeds, near_powers | st.integers(1, 300), st.integers(0, 10**6))
def test_each_pass_over_the_data_takes_every_sample_once(seed, size, epoch):
    found = positions(seed, epoch * size, size, dataset_size=size)
    assert np.array_equal(np.sort(found), np.arange(size))


@pytest.mark.parametrize("size", [2**15 - 1, 2**15, 2**15 + 1, 2**17 + 1, 10**6])
def test_a_pass_longer_than_a_chunk_takes_every_sample_once(size):
    found = positions(7, 3 * size, size, dataset_size=size)
    assert np.array_equal(np.bincount(found, minlength=size), np.ones(size))


@given(seeds, st.integers(1, 200), st.integers(1, 40), st.integers(1, 40))
def test_the_global_order_does_not_depend_on_the_batch_size(seed, size, one, other):
    assert order(seed, size, 100, one) == order(seed, size, 100, other)


@given(seeds, st.integers(1, 10**9), st.integers(0, 10**12), st.integers(1, 50), st.integers(0, 49))
def test_a_position_is_the_same_whatever_else_is_asked_for(seed, size, first, count, inside):
    together = positions(seed, first, count, dataset_size=size)
    inside %= count
    assert positions(seed, first + inside, 1, dataset_size=size)[0] == together[inside]


def test_positions_are_the_same_on_both_sides_of_a_chunk():
    together = positions(3, 10, 70_000, dataset_size=1000)
    apart = [positions(3, 10 + start, 7_000, dataset_size=1000) for start in range(0, 70_000, 7_000)]
    assert np.array_equal(together, np.concatenate(apart))


@given(seeds, st.integers(1, 10_000), st.integers(10**6, 10**15))
def test_a_huge_dataset_needs_no_more_than_the_step_asked_for(seed, step, size):
    tracemalloc.start()
    try:
        found = step_samples(seed, step, dataset_size=size, batch_size=4)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(set(found)) == 4
    assert all(0 <= index < size for index in found)
    assert most < 100_000


def test_the_order_is_written_in_stone():
    """A changed order would make every run that is under way train other samples after a resume."""
    assert step_samples(42, 1, dataset_size=10, batch_size=10) == [3, 0, 8, 2, 7, 5, 4, 6, 9, 1]
    assert step_samples(0, 12_346, dataset_size=10**6, batch_size=4) == [454464, 918978, 614301, 349890]


def test_seeds_and_epochs_give_other_orders():
    first = order(1, 50, 100, 10)
    assert first != order(2, 50, 100, 10)
    assert first[:50] != first[50:]
    assert first[:50] != list(range(50))


@pytest.mark.parametrize("size", [2, 3, 5, 10, 17])
def test_every_sample_comes_to_every_place_about_equally_often(size):
    epochs = 4000
    found = positions(5, 0, epochs * size, dataset_size=size).reshape(epochs, size)
    for place in range(size):
        counts = np.bincount(found[:, place], minlength=size)
        deviation = (counts - epochs / size) / np.sqrt(epochs / size)
        assert np.abs(deviation).max() < 5


def test_neighbours_in_the_data_are_not_neighbours_in_the_order():
    found = positions(11, 0, 100_000, dataset_size=100_000)
    assert abs(np.corrcoef(found, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.02
    assert np.mean(np.abs(np.diff(found)) == 1) < 0.001


@given(st.integers(1, 12), st.integers(1, 8))
def test_whoever_lives_every_slot_is_computed_once(slots, world):
    taken = [slot for rank in range(world) for slot in slots_of(rank, world, slots)]
    assert sorted(taken) == list(range(slots))


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
def test_the_slots_hold_the_steps_microbatches_once_in_equal_parts(slots, accumulation, rows):
    samples = list(range(100, 100 + slots * accumulation * rows))
    parts = split_microbatches(samples, rows)
    found = [slot_microbatches(samples, slot, slots, rows) for slot in range(slots)]
    assert [len(slot) for slot in found] == [accumulation] * slots
    dealt = [found[index % slots][index // slots] for index in range(len(parts))]
    assert dealt == parts
    assert [sample for part in dealt for sample in part] == samples


def test_draws_differ_by_step_and_microbatch_and_fit_torch():
    found = {draw_seed(seed, step, part) for seed in range(3) for step in range(20) for part in range(8)}
    assert len(found) == 3 * 20 * 8
    assert all(0 <= value < 2**63 for value in found)
