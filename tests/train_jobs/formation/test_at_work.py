"""What a victim was doing, by its last sign of life and by how far the others are."""

import pytest

from cluster.recovery.classes import Signal
from train_jobs.formation.at_work import Reached, is_at_work
from train_jobs.formation.crew import Incident, Member
from train_jobs.formation.messages import Beat, Joined, Phase

GENERATION, STEP = 4, 7


def judged(phase, step=STEP, generation=GENERATION, reached=None, told_step=0, **known):
    """A victim whose last sign of life said this."""
    beat = Beat("1.a", generation, phase, step, 9, 1.0)
    victim = Member(Joined("1.a", 1, 101, "10.0.0.1", "node1", None), 50.0, 50.0, beat)
    for name, value in known.items():
        setattr(victim, name, value)
    incident = Incident(Signal.PROCESS_EXIT, victim, "gone", 50.0, 50.2, GENERATION, step=told_step)
    return is_at_work(incident, reached or Reached(GENERATION, STEP))


@pytest.mark.parametrize("phase", [Phase.EXCHANGING, Phase.SAVING, Phase.EVALUATING])
def test_after_a_step_that_all_have_taken_it_had_the_next_in_hand(phase):
    assert judged(phase)
    assert not judged(phase, step=STEP + 1)
    assert not judged(phase, reached=Reached(GENERATION - 1, STEP))


@pytest.mark.parametrize("phase", [Phase.FORMING, Phase.RESTORING])
def test_once_all_have_their_state_it_had_the_next_step_in_hand(phase):
    assert judged(phase, step=STEP + 1)
    assert not judged(phase, reached=Reached(GENERATION - 1, STEP))


def test_what_it_said_in_an_earlier_formation_is_out_of_date():
    assert judged(Phase.IDLE, generation=GENERATION - 1)
    assert not judged(Phase.IDLE, generation=GENERATION - 1, reached=Reached(GENERATION - 1, STEP))


def test_who_computes_is_at_work_and_who_has_come_back_is_not():
    assert judged(Phase.COMPUTING, step=STEP + 1)
    assert not judged(Phase.COMPUTING, left_in=GENERATION)
    assert not judged(Phase.IDLE)


def test_one_that_was_seen_saving_twice_was_still_at_that():
    assert not judged(Phase.SAVING, last_mark_at=49.7)
    assert judged(Phase.EXCHANGING, last_mark_at=49.7)


def test_its_own_word_on_the_step_in_hand_counts():
    assert judged(Phase.EXCHANGING, step=STEP + 1, told_step=STEP + 1)
    assert not judged(Phase.SAVING, last_mark_at=49.7, told_step=STEP)


def test_nobody_is_to_blame_where_nobody_failed():
    assert is_at_work(Incident(Signal.COLLECTIVE_ERROR, None, "stall", 1.0, 2.0, 1), Reached(1, 1))
