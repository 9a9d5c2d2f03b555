import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.recovery.classes import FailureClass
from cluster.recovery.deciding import FREE, backoff_s, decide, without_progress
from cluster.recovery.situation import NodeRole, PastFailure, Reason, Situation, Strategy, Tolerance


def situation(failure_class=FailureClass.WORKER_CRASH, **changes):
    facts = {
        "tolerance": "restart", "step": 27, "committed_step": 20, "live": 1, "min_workers": 2, "slots": 2,
        "microbatch_rows": 4, "max_failures": 8, "now": 1000.0, **changes,
    }  # fmt: skip
    return Situation(failure_class=failure_class, **facts)


def past(step=27, committed_step=20, failure_class=FailureClass.WORKER_CRASH, at=900.0, slots=(1,)):
    return PastFailure(
        failure_class=failure_class, step=step, committed_step=committed_step, at=at, victim_slots=slots
    )


def test_who_has_but_a_part_goes_back_to_the_commit_and_says_what_that_costs():
    told = decide(situation(state_survives=False))
    assert (told.strategy, told.reason) == (Strategy.RESTART_FROM_COMMIT, Reason.TRANSIENT)
    assert told.wait_s == 0
    assert "commit of step 20, 7 steps done again" in told.sentence
    assert "A new worker" in told.sentence
    assert "A warm standby" in decide(situation(standby=1, state_survives=False)).sentence


def test_restart_proves_itself_and_goes_on_without_the_lost():
    told = decide(situation(min_workers=1))
    assert (told.strategy, told.reason, told.wait_s) == (Strategy.PROVE_AND_GO_ON, Reason.TRANSIENT, 0)
    assert told.sentence.startswith("1 of 2 workers repeat a committed step")
    assert "no step is done again" in told.sentence


def test_continue_goes_on_with_whoever_is_left():
    told = decide(situation(tolerance="continue", live=2, min_workers=1, slots=3))
    assert told.strategy is Strategy.GO_ON_WITH_SURVIVORS
    assert "2 of 3 workers go on at step 28" in told.sentence


def test_continue_waits_while_too_few_are_left():
    told = decide(situation(tolerance="continue", live=1, min_workers=2))
    assert (told.strategy, told.reason) == (Strategy.WAIT_FOR_STANDBY, Reason.TOO_FEW_WORKERS)
    assert "1 worker left, 2 needed" in told.sentence


def test_without_any_survivor_the_commit_is_all_there_is():
    told = decide(situation(tolerance="continue", live=0, min_workers=1))
    assert told.strategy is Strategy.RESTART_FROM_COMMIT


def test_a_hung_rank_is_replaced_or_left_behind():
    assert decide(situation(FailureClass.HUNG_RANK, min_workers=1)).strategy is Strategy.REPLACE_RANK
    going_on = situation(FailureClass.HUNG_RANK, tolerance="continue", min_workers=1)
    assert decide(going_on).strategy is Strategy.GO_ON_WITH_SURVIVORS


@pytest.mark.parametrize(
    ("failure_class", "strategy", "reason"),
    [
        (FailureClass.NODE_DRAINING, Strategy.COMMIT_THEN_MOVE, Reason.DRAINING),
        (FailureClass.SLOW_RANK, Strategy.NAME_ONLY, Reason.HARMLESS),
        (FailureClass.STORAGE_REFUSED, Strategy.RETRY_STORAGE, Reason.TRANSIENT),
        (FailureClass.OUT_OF_MEMORY, Strategy.SHRINK_MICROBATCH, Reason.TOO_LARGE),
        (FailureClass.NODE_LOST, Strategy.PROVE_AND_GO_ON, Reason.TRANSIENT),
        (FailureClass.NETWORK_STALL, Strategy.PROVE_AND_GO_ON, Reason.TRANSIENT),
        (FailureClass.PROGRAM_ERROR, Strategy.PROVE_AND_GO_ON, Reason.TRANSIENT),
        (FailureClass.DRIVER_LOST, Strategy.RESTART_FROM_COMMIT, Reason.TRANSIENT),
        (FailureClass.HEAD_LOST, Strategy.RESTART_FROM_COMMIT, Reason.TRANSIENT),
    ],
)
def test_classes_have_their_strategy(failure_class, strategy, reason):
    told = decide(situation(failure_class, min_workers=1))
    assert (told.strategy, told.reason, told.wait_s) == (strategy, reason, 0)


@pytest.mark.parametrize("failure_class", [FailureClass.DRIVER_LOST, FailureClass.HEAD_LOST])
def test_nobody_survives_the_driver(failure_class):
    told = decide(situation(failure_class, tolerance="continue", live=2, min_workers=1))
    assert told.strategy is Strategy.RESTART_FROM_COMMIT
    assert "linnet train run" in told.sentence


def test_a_lost_node_that_was_the_head_takes_all_with_it():
    lost = situation(FailureClass.NODE_LOST, tolerance="continue", live=2, min_workers=1)
    assert decide(lost).strategy is Strategy.GO_ON_WITH_SURVIVORS
    told = decide(lost.model_copy(update={"node_role": NodeRole.HEAD}))
    assert told.strategy is Strategy.RESTART_FROM_COMMIT
    assert "linnet train run" in told.sentence


def test_a_bad_loss_stops_unless_the_spec_lets_it_be_skipped():
    stopped = decide(situation(FailureClass.BAD_LOSS))
    assert (stopped.strategy, stopped.reason) == (Strategy.STOP, Reason.AS_SPECIFIED)
    assert decide(situation(FailureClass.BAD_LOSS, may_skip=True)).strategy is Strategy.SKIP_BATCH


def test_skipped_batches_spend_nothing():
    history = tuple(past(failure_class=FailureClass.BAD_LOSS) for _ in range(9))
    skipped = decide(situation(FailureClass.BAD_LOSS, max_failures=0, may_skip=True))
    assert skipped.strategy is Strategy.SKIP_BATCH
    assert without_progress(situation(history=history)) == ()


def test_an_error_that_would_come_again_stops_at_once():
    told = decide(situation(FailureClass.PROGRAM_ERROR, is_final=True))
    assert (told.strategy, told.reason) == (Strategy.STOP, Reason.NOT_RETRYABLE)
    bad = decide(situation(FailureClass.BAD_LOSS, is_final=True))
    assert bad.reason is Reason.AS_SPECIFIED


def test_a_draining_node_without_another_place_is_stayed_on():
    told = decide(situation(FailureClass.NODE_DRAINING, may_move=False))
    assert (told.strategy, told.reason) == (Strategy.COMMIT_THEN_MOVE, Reason.DRAINING)
    assert "training goes on there" in told.sentence


def test_the_wait_doubles_to_a_minute_and_begins_again_after_progress():
    history, waits = [], []
    for number in range(9):
        waits.append(decide(situation(max_failures=-1, step=20 + number, history=tuple(history))).wait_s)
        history.append(past(step=20 + number))
    assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    after = situation(max_failures=-1, step=41, committed_step=40, history=tuple(history))
    assert decide(after).wait_s == 0


def test_a_commit_at_the_step_of_the_failure_is_no_progress():
    assert decide(situation(step=30, committed_step=27, history=(past(step=27),))).wait_s == 1
    assert decide(situation(step=30, committed_step=28, history=(past(step=27),))).wait_s == 0


def test_a_commit_short_of_the_last_failure_takes_none_of_the_earlier_ones_back():
    history = (past(step=27, committed_step=20), past(step=30, committed_step=20))
    assert without_progress(situation(step=30, committed_step=28, history=history)) == history
    assert without_progress(situation(step=32, committed_step=31, history=history)) == ()


def test_a_spent_budget_stops_with_the_numbers():
    history = tuple(past(step=20 + n, at=900.0 + n) for n in range(2))
    assert decide(situation(max_failures=3, history=history)).strategy is not Strategy.STOP
    told = decide(situation(max_failures=2, history=history))
    assert (told.strategy, told.reason) == (Strategy.STOP, Reason.BUDGET_SPENT)
    assert "3 failures in 100 s" in told.sentence
    assert "`failures.max_failures` is 2" in told.sentence
    assert decide(situation(max_failures=0)).reason is Reason.BUDGET_SPENT


@pytest.mark.parametrize(
    "failure_class", [FailureClass.WORKER_CRASH, FailureClass.PROGRAM_ERROR, FailureClass.OUT_OF_MEMORY]
)
def test_the_same_crash_three_times_in_the_same_step_is_deterministic(failure_class):
    twice = (past(failure_class=failure_class), past(failure_class=failure_class))
    told = decide(situation(failure_class, microbatch_rows=1, victim_slots=(1,), history=twice))
    assert (told.strategy, told.reason) == (Strategy.STOP, Reason.DETERMINISTIC)
    assert "3 times in a row in step 28, slot 1 each time" in told.sentence
    once = decide(situation(failure_class, microbatch_rows=1, victim_slots=(1,), history=twice[1:]))
    assert once.strategy is not Strategy.STOP


@pytest.mark.parametrize(
    "history",
    [
        (past(step=26), past()),
        (past(failure_class=FailureClass.NODE_LOST), past()),
        (past(), past(failure_class=FailureClass.HUNG_RANK)),
    ],
)
def test_other_steps_and_classes_are_not_the_same_crash(history):
    told = decide(situation(history=history, min_workers=1, victim_slots=(1,)))
    assert told.strategy is Strategy.PROVE_AND_GO_ON


def test_crashes_in_other_parts_of_the_step_or_of_idle_workers_are_chance():
    twice = (past(), past())

    def reason(**known):
        return decide(situation(min_workers=1, **known)).reason

    assert reason(history=twice, victim_slots=(0, 2)) is Reason.TRANSIENT
    assert reason(history=twice, victim_slots=()) is Reason.TRANSIENT
    assert reason(history=(past(slots=()), past()), victim_slots=(1,)) is Reason.TRANSIENT
    assert reason(history=twice, victim_slots=(1,)) is Reason.DETERMINISTIC


def crashes(slots, sizes, victims):
    """The same step crashes once in a group of each size; `victims` says which rank it is."""
    history, told = [], []
    for size, victim in zip(sizes, victims, strict=True):
        parts = tuple(range(victim, slots, size))
        told.append(decide(situation(min_workers=1, slots=slots, victim_slots=parts, history=tuple(history))))
        history.append(past(slots=parts))
    return told


@given(st.data(), st.integers(1, 8))
def test_a_poisoned_slot_is_recognised_at_its_third_crash_however_the_group_shrinks_and_grows(data, slots):
    poisoned = data.draw(st.integers(0, slots - 1))
    sizes = data.draw(st.lists(st.integers(1, slots), min_size=3, max_size=3))
    *before, third = crashes(slots, sizes, [poisoned % size for size in sizes])
    assert [told.reason for told in before] == [Reason.TRANSIENT] * 2
    assert third.reason is Reason.DETERMINISTIC
    assert re.search(rf"slots? [\d, ]*\b{poisoned}\b[\d, ]* each time", third.sentence)


@given(st.data(), st.integers(2, 8))
def test_crashes_that_have_no_slot_in_common_are_chance(data, slots):
    sizes = data.draw(st.lists(st.integers(2, slots), min_size=3, max_size=6))
    victims = [data.draw(st.integers(0, size - 1)) for size in sizes]
    parts = [set(range(victim, slots, size)) for victim, size in zip(victims, sizes, strict=True)]
    assume(not any(set.intersection(*parts[n : n + 3]) for n in range(len(parts) - 2)))
    assert {told.reason for told in crashes(slots, sizes, victims)} == {Reason.TRANSIENT}


def test_the_slot_of_the_example_changes_places_and_is_found():
    assert [3 % size for size in (4, 3, 2, 1)] == [3, 0, 1, 0]
    told = crashes(4, (4, 3, 2), (3, 0, 1))
    assert told[-1].reason is Reason.DETERMINISTIC
    assert "slot 3 each time" in told[-1].sentence


def test_slow_ranks_between_them_do_not_hide_a_repetition():
    history = (past(), past(failure_class=FailureClass.SLOW_RANK, step=25), past())
    assert decide(situation(history=history, victim_slots=(1,))).reason is Reason.DETERMINISTIC


def test_a_microbatch_is_shrunk_before_memory_is_called_deterministic():
    history = (past(failure_class=FailureClass.OUT_OF_MEMORY),) * 2
    told = decide(situation(FailureClass.OUT_OF_MEMORY, microbatch_rows=2, history=history))
    assert told.strategy is Strategy.SHRINK_MICROBATCH
    assert "of 1 row instead of 2" in told.sentence


@st.composite
def situations(draw):
    """Histories as they happen: commits never go back, and no step is before the commit it started from."""
    parts = st.lists(st.integers(0, 3), max_size=2, unique=True).map(tuple)
    history, committed = [], 0
    for _ in range(draw(st.integers(0, 6))):
        committed += draw(st.integers(0, 3))
        history.append(
            past(
                step=committed + draw(st.integers(0, 3)),
                committed_step=committed,
                failure_class=draw(st.sampled_from(FailureClass)),
                at=float(len(history)),
                slots=draw(parts),
            )
        )
    committed += draw(st.integers(0, 3))
    slots = draw(st.integers(1, 4))
    return Situation(
        failure_class=draw(st.sampled_from(FailureClass)),
        node_role=draw(st.sampled_from(NodeRole)),
        tolerance=draw(st.sampled_from(Tolerance)),
        step=committed + draw(st.integers(0, 3)),
        committed_step=committed,
        live=draw(st.integers(0, slots)),
        min_workers=draw(st.integers(1, slots)),
        slots=slots,
        standby=draw(st.integers(0, 2)),
        microbatch_rows=draw(st.integers(1, 4)),
        max_failures=draw(st.integers(-1, 5)),
        may_skip=draw(st.booleans()),
        victim_slots=draw(parts),
        history=tuple(history),
        now=10.0,
    )


@given(situations())
def test_a_run_stops_for_a_stated_reason_only(found):
    told = decide(found)
    assert (told.strategy is Strategy.STOP) == (
        told.reason in {Reason.AS_SPECIFIED, Reason.DETERMINISTIC, Reason.BUDGET_SPENT}
    )
    spent = 0 <= found.max_failures <= len(without_progress(found))
    if told.reason is Reason.BUDGET_SPENT:
        assert spent
    if spent and found.failure_class not in FREE:
        assert told.strategy is Strategy.STOP
    if told.reason is Reason.DETERMINISTIC:
        streak = without_progress(found)[-2:]
        assert [(p.failure_class, p.step) for p in streak] == [(found.failure_class, found.step)] * 2
        assert set(found.victim_slots).intersection(*(p.victim_slots for p in streak))
    if told.reason is Reason.AS_SPECIFIED:
        assert found.failure_class is FailureClass.BAD_LOSS
        assert not found.may_skip


@given(situations())
def test_what_failed_before_the_last_progress_changes_nothing(found):
    counted = [p for p in found.history if p.failure_class not in FREE]
    if not counted or found.committed_step <= counted[-1].step:
        beyond = counted[-1].step + 1 if counted else 0
        moved = max(found.step, beyond)
        found = found.model_copy(update={"committed_step": beyond, "step": moved})
    assert decide(found) == decide(found.model_copy(update={"history": ()}))


@given(situations())
def test_decisions_are_repeatable_bounded_and_told(found):
    told = decide(found)
    assert told == decide(Situation.model_validate_json(found.model_dump_json()))
    assert 0 <= told.wait_s <= 60
    assert told.sentence.endswith(".")
    if found.tolerance is Tolerance.CONTINUE and 0 < found.live < found.min_workers:
        assert told.strategy is not Strategy.GO_ON_WITH_SURVIVORS


@given(st.integers(0, 10_000))
def test_waits_grow_up_to_a_minute(count):
    assert backoff_s(count) <= backoff_s(count + 1) <= 60
