"""Real gloo groups between threads and processes: exact sums, and peers that go away."""

import multiprocessing as mp
import os
import threading
import time

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from train_jobs.formation.group import Group, GroupLostError
from train_jobs.sampling import slots_of


@pytest.fixture
def meeting():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def together(meeting, size, act, generation=1, is_over=lambda: False):
    """`act(group)` on every rank, each in a thread of its own; results by rank."""
    results = [None] * size

    def run(rank):
        group = Group.form(("127.0.0.1", meeting.port), generation, rank, size, is_over)
        results[rank] = act(group)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


@pytest.mark.parametrize("length", [1, 3, 1000, 4097])
def test_sums_of_slots_are_the_same_bits_for_any_number_of_members(meeting, length):
    slots = 5
    rows = {
        slot: torch.randn(length, generator=torch.Generator().manual_seed(slot)) * 10.0**slot
        for slot in range(slots)
    }
    expected = Group().sum_slots(rows, slots)
    for size in (2, 3, 4, 5):
        found = together(
            meeting,
            size,
            lambda g: g.sum_slots({s: rows[s] for s in slots_of(g.rank, g.size, slots)}, slots),
            size,
        )
        assert all(torch.equal(one, expected) for one in found)


@given(st.integers(1, 9), st.integers(1, 9))
def test_every_slot_has_one_member(size, slots):
    assert sorted(slot for rank in range(size) for slot in slots_of(rank, size, slots)) == list(range(slots))


def test_values_of_any_size_go_round(meeting):
    def act(group):
        return group.gather({"rank": group.rank, "text": "x" * group.rank * 1000}), group.from_rank(
            1, "from one" if group.rank == 1 else None
        )

    for gathered, told in together(meeting, 3, act):
        assert [value["rank"] for value in gathered] == [0, 1, 2]
        assert len(gathered[2]["text"]) == 2000
        assert told == "from one"


def test_parts_are_joined_summed_in_rank_order_collected_and_dealt(meeting):
    size, length = 3, 5
    # Sums of these depend on their order.
    rows = [
        torch.randn(size * length, generator=torch.Generator().manual_seed(r)) * 10.0**r for r in range(size)
    ]
    summed = rows[0] + rows[1] + rows[2]

    def act(group):
        part, whole = torch.empty(length), torch.empty(size * length)
        group.sum_parts(part, rows[group.rank])
        group.join_parts(whole, part)
        collected = group.collect(part, 1)
        back = group.deal(torch.empty(length), collected or None, 1)
        return whole, collected, part, back

    found = together(meeting, size, act)
    assert [len(collected) for _, collected, _, _ in found] == [0, size, 0]
    assert torch.equal(torch.cat(found[1][1]), summed)
    for whole, _, part, back in found:
        assert torch.equal(whole, summed)
        assert torch.equal(back, part)


def _peer(port, seconds):
    group = Group.form(("127.0.0.1", port), 7, 1, 2, lambda: False)
    group.sum(torch.ones(1))
    time.sleep(seconds)
    os._exit(9)


@pytest.mark.parametrize("dissolved_after_s", [None, 0.5])
def test_a_peer_that_dies_or_a_formation_that_is_dissolved_ends_the_wait_and_the_process_goes_on(
    meeting, dissolved_after_s
):
    child = mp.get_context("spawn").Process(
        target=_peer, args=(meeting.port, 0.2 if dissolved_after_s is None else 30)
    )
    child.start()
    over = threading.Event()
    group = Group.form(("127.0.0.1", meeting.port), 7, 0, 2, over.is_set)
    group.sum(torch.ones(1))
    if dissolved_after_s:
        threading.Timer(dissolved_after_s, over.set).start()
    began = time.monotonic()
    with pytest.raises(GroupLostError):
        group.sum(torch.ones(1_000_000))
    assert time.monotonic() - began < 20
    child.kill()
    child.join()
    assert together(meeting, 2, lambda g: float(g.sum(torch.ones(1))), generation=8) == [2.0, 2.0]
