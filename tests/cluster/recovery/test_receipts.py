import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recovery import receipts
from cluster.recovery.receipts import goodput
from cluster.storage import Storage
from tests.cluster.recovery.samples import STACK, receipt

PATH = "runs/run-1/receipts.jsonl"


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path))


def test_a_run_without_failures_has_no_receipts(storage):
    assert receipts.read(storage, PATH) == []


def test_receipts_come_back_in_order(storage):
    written = [
        receipt(stack=STACK, advice="standby: 1"),
        receipt(number=2, victim=None, attempt_after=None, strategy="stop", reason="budget_spent"),
    ]
    for one in written:
        receipts.append(storage, PATH, one)
    assert receipts.read(storage, PATH) == written


def test_torn_lines_and_those_of_newer_releases_are_left_out(storage):
    receipts.append(storage, PATH, receipt())
    newer = {**json.loads(receipt(number=2).model_dump_json()), "failure_class": "solar_flare"}
    storage.append_line(PATH, json.dumps(newer).encode())
    storage.append_line(PATH, b'{"number": 3, "ru')
    receipts.append(storage, PATH, receipt(number=4))
    assert [one.number for one in receipts.read(storage, PATH)] == [1, 4]


def test_a_receipt_that_was_written_again_counts_as_it_was_written_last(storage):
    for one in (receipt(attempt_after=None), receipt(number=2), receipt(steps_redone=3)):
        receipts.append(storage, PATH, one)
    assert [(one.number, one.steps_redone) for one in receipts.read(storage, PATH)] == [(1, 3), (2, 7)]


def test_the_history_is_what_happened_since_a_failure_stopped_the_run():
    kept = [
        receipt(),
        receipt(number=2, strategy="stop", reason="budget_spent", attempt_after=None),
        receipt(number=3, reached=22, place=0, slots=(0, 2), attempt_after=None),
    ]
    (past,) = receipts.history(kept)
    assert (past.step, past.committed_step, past.victim_slots) == (22, 20, (0, 2))
    assert past.at == 1000.5
    assert len(receipts.history(kept[:1])) == 1
    assert receipts.history(kept[:2]) == []


def test_further_victims_are_no_further_failures_but_their_slots_were_in_hand_too():
    kept = [
        receipt(slots=(0,)),
        receipt(number=2, slots=(2,), joins=1),
        receipt(number=3, slots=(3,), joins=1, at_work=False),
        receipt(number=4, slots=(1,), at_work=False),
    ]
    assert [past.victim_slots for past in receipts.history(kept)] == [(0, 2), ()]


def test_receipts_of_earlier_releases_count_without_their_slots(storage):
    old = receipt(place=1).model_dump(mode="json", exclude={"slots", "joins"})
    storage.append_line(PATH, json.dumps(old).encode())
    (past,) = receipts.history(receipts.read(storage, PATH))
    assert (past.step, past.victim_slots) == (0, ())


def test_goodput_counts_every_step_once():
    steps = [(1, 2.0), (2, 2.0), (3, 2.0), (2, 1.0), (3, 1.0)]
    assert goodput(steps, 100.0, 108.0) == (2.0 + 1.0 + 1.0) / 8.0
    assert goodput([], 100.0, 108.0) == 0
    assert goodput(steps, 100.0, 100.0) == 0


@given(
    st.lists(st.tuples(st.integers(1, 5), st.floats(0, 10))),
    st.floats(-5, 100),
)
def test_goodput_is_a_share_that_redoing_cannot_raise(steps, wall):
    share = goodput(steps, 0.0, wall)
    assert 0 <= share <= 1
    assert goodput([*steps, *steps], 0.0, wall) == share
