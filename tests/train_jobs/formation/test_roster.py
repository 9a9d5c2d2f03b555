"""Who trains with whom, on a clock of our own."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import LinnetError
from cluster.recovery.classes import Signal
from train_jobs.formation.messages import Beat, Joined, Phase, Source
from train_jobs.formation.roster import Form, Kill, Moved, Roster, Rules, Verdict


class World:
    """A roster, its clock, and workers that beat."""

    def __init__(
        self,
        slots=2,
        min_workers=None,
        may_shrink=False,
        keep_state=False,
        verdict=None,
        hang_timeout_s=10.0,
        prove=False,
    ):
        self.now = 1000.0
        self.incidents = []
        self.verdict = verdict or Verdict()

        def judge(incident):
            self.incidents.append(incident)
            return self.verdict

        least = min_workers or slots
        rules = Rules(slots, least, least, may_shrink, keep_state, prove, hang_timeout_s)
        self.roster = Roster(rules, ("127.0.0.1", 1), judge, driver_node="driver")
        self.phases = {}
        self.marks = {}
        self.effects = []

    def join(self, *workers, state_step=None):
        for worker in workers:
            rank = int(worker.split(".")[0])
            self.roster.join(Joined(worker, rank, 100 + rank, "10.0.0.1", f"node{rank}", None), self.now)
            self.roster.ready(worker, state_step, self.now)

    def run(self, seconds, *silent):
        """Let time pass; whoever is not silent beats, and whoever computes gets something done."""
        for _ in range(int(seconds * 4)):
            self.now += 0.25
            for worker, member in self.roster.members.items():
                if member.is_dead or worker in silent:
                    continue
                phase = self.phases.get(worker, Phase.COMPUTING)
                if worker not in self.phases:
                    self.marks[worker] = self.marks.get(worker, 0) + 1
                generation = self.roster.generation
                self.roster.beat(Beat(worker, generation, phase, 3, self.marks.get(worker, 0), 1.0), self.now)
            self.effects += self.roster.tick(self.now)

    def wishes(self, worker):
        """What a member hears to its next sign of life."""
        beat = Beat(worker, self.roster.generation, Phase.COMPUTING, 3, 99, 1.0)
        return self.roster.beat(beat, self.now)

    def step_and_leave(self, step, *workers):
        """All stop after a step that was committed."""
        self.roster.committed(step)
        for worker in workers:
            self.roster.ready(worker, step, self.now)
        self.run(0.25)

    def moved(self):
        return [effect for effect in self.effects if isinstance(effect, Moved)]

    def formations(self):
        return [effect.formation for effect in self.effects if isinstance(effect, Form)]

    def killed(self):
        return [effect.member.joined.worker for effect in self.effects if isinstance(effect, Kill)]


@pytest.fixture
def pair():
    world = World()
    world.join("0.a", "1.a")
    world.run(1)
    return world


def test_it_forms_at_full_strength_and_not_before():
    world = World()
    world.join("0.a")
    world.run(30)
    assert world.formations() == []
    world.join("1.a")
    world.run(0.25)
    (formation,) = world.formations()
    assert formation.workers == ("0.a", "1.a")
    assert formation.source is Source.CHECKPOINT
    assert formation.attempt == 1


def test_in_restart_survivors_wait_for_the_replacement_and_go_back_to_the_checkpoint(pair):
    pair.roster.lost("1.a", Signal.PROCESS_EXIT, "gone", pair.now)
    pair.roster.ready("0.a", 7, pair.now)
    pair.run(5)
    assert len(pair.formations()) == 1
    pair.join("1.b")
    pair.run(0.25)
    assert pair.formations()[-1].workers == ("0.a", "1.b")
    assert pair.formations()[-1].source is Source.CHECKPOINT
    assert [(i.signal, i.victim.joined.worker) for i in pair.incidents] == [(Signal.PROCESS_EXIT, "1.a")]


def test_a_standby_takes_over_at_once():
    world = World()
    world.join("0.a", "1.a", "2.standby")
    world.run(1)
    assert world.formations()[0].workers == ("0.a", "1.a")
    world.roster.lost("0.a", Signal.PROCESS_EXIT, "gone", world.now)
    world.roster.ready("1.a", 7, world.now)
    world.run(0.25)
    assert world.formations()[-1].workers == ("1.a", "2.standby")


def test_who_holds_a_shard_keeps_its_place_and_the_newcomer_takes_the_empty_one():
    world = World(slots=3)
    world.roster.rules = replace(world.roster.rules, keep_places=True)
    world.join("0.a", "1.a", "2.a", "3.standby")
    world.run(1)
    world.roster.lost("0.a", Signal.PROCESS_EXIT, "gone", world.now)
    for worker in ("1.a", "2.a"):
        world.roster.ready(worker, 7, world.now)
    world.run(0.25)
    assert world.formations()[-1].workers == ("3.standby", "1.a", "2.a")
    assert world.formations()[-1].source is Source.CHECKPOINT


def test_in_continue_survivors_go_on_from_their_own_state_and_take_the_newcomer_in_at_a_step_s_end():
    world = World(slots=3, min_workers=1, may_shrink=True, keep_state=True)
    world.join("0.a", "1.a", "2.a")
    world.run(1)
    world.roster.lost("1.a", Signal.PROCESS_EXIT, "gone", world.now)
    world.roster.ready("0.a", 6, world.now)
    world.roster.ready("2.a", 7, world.now)
    world.run(0.25)
    second = world.formations()[-1]
    assert (second.workers, second.source, second.source_rank) == (("0.a", "2.a"), Source.PEER, 1)
    world.join("1.b")
    assert world.roster.beat(Beat("0.a", 2, Phase.COMPUTING, 8, 99, 1.0), world.now).regroup
    world.roster.ready("0.a", 8, world.now)
    world.roster.ready("2.a", 8, world.now)
    world.run(0.25)
    third = world.formations()[-1]
    assert (third.workers, third.source) == (("0.a", "2.a", "1.b"), Source.PEER)


def test_a_survivor_that_has_not_left_yet_is_waited_for(pair):
    pair.roster.lost("1.a", Signal.PROCESS_EXIT, "gone", pair.now)
    pair.join("1.b")
    pair.run(2)
    assert len(pair.formations()) == 1
    pair.roster.ready("0.a", 7, pair.now)
    pair.run(0.25)
    assert len(pair.formations()) == 2


def test_a_silent_worker_is_ended_within_the_limit(pair):
    began = pair.now
    while not pair.killed():
        pair.run(0.25, "1.a")
    assert pair.killed() == ["1.a"]
    assert pair.now - began <= 10
    assert pair.incidents[0].signal is Signal.NO_HEARTBEAT


def test_one_that_computes_for_ever_while_others_wait_is_the_guilty_one(pair):
    pair.phases = {"0.a": Phase.EXCHANGING, "1.a": Phase.COMPUTING}
    began = pair.now
    while not pair.killed():
        pair.run(0.25)
    assert pair.killed() == ["1.a"]
    assert pair.now - began <= 11
    assert pair.incidents[0].peers_waiting == 1


def test_nobody_is_blamed_while_everybody_computes_a_long_step(pair):
    pair.phases = {"0.a": Phase.COMPUTING, "1.a": Phase.COMPUTING}
    pair.run(25)
    assert pair.killed() == []


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.RESTORING])
def test_nobody_is_ended_for_slow_storage_while_others_wait(pair, phase):
    pair.phases = {"0.a": phase, "1.a": Phase.EXCHANGING}
    pair.run(1700)
    assert pair.killed() == []
    pair.run(110)
    assert pair.killed() == ["0.a"]


def test_a_commit_that_a_move_waits_for_may_take_its_time(pair):
    pair.phases = {"0.a": Phase.SAVING}
    pair.roster.ready("1.a", 7, pair.now)
    pair.run(120)
    assert pair.killed() == []
    pair.phases = {"0.a": Phase.COMPUTING}
    pair.marks["0.a"] = 1000
    pair.run(12)
    assert pair.killed() == ["0.a"]
    assert "did not leave" in pair.incidents[0].detail


def test_who_gets_something_done_after_the_end_of_its_formation_is_not_stuck(pair):
    pair.roster.ready("1.a", 7, pair.now)
    pair.run(30)
    assert pair.killed() == []


def test_an_exchange_that_nobody_holds_up_is_a_stall(pair):
    pair.phases = {"0.a": Phase.EXCHANGING, "1.a": Phase.EXCHANGING}
    pair.run(11)
    assert pair.killed() == []
    assert [(i.signal, i.victim) for i in pair.incidents] == [(Signal.COLLECTIVE_ERROR, None)]


def test_a_broken_exchange_without_a_victim_is_told_and_everybody_meets_again(pair):
    pair.roster.broken("0.a", 1, "reset", pair.now)
    pair.roster.ready("0.a", 3, pair.now)
    pair.roster.ready("1.a", 3, pair.now)
    pair.run(0.5)
    assert len(pair.formations()) == 2
    assert [i.detail for i in pair.incidents] == ["reset"]


def test_a_verdict_may_ask_for_patience_smaller_microbatches_or_an_end():
    world = World(verdict=Verdict(wait_s=8, shrink_microbatch=True))
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.raised("0.a", Signal.OUT_OF_MEMORY, "too big", world.now)
    world.roster.ready("0.a", 3, world.now)
    world.roster.ready("1.a", 3, world.now)
    world.run(7)
    assert len(world.formations()) == 1
    world.run(1.5)
    assert world.formations()[-1].microbatch_divisor == 2
    world.verdict = Verdict(stop=LinnetError("enough"))
    world.roster.raised("0.a", Signal.RAISED, "again", world.now)
    assert isinstance(world.roster.ended, LinnetError)
    world.run(30)
    assert len(world.formations()) == 2


def test_a_replacement_tells_of_the_death_of_the_one_before_it(pair):
    pair.join("1.b")
    assert pair.roster.members["1.a"].is_dead
    assert [i.victim.joined.worker for i in pair.incidents] == ["1.a"]


def test_a_node_that_does_not_answer_is_given_up_at_once_whatever_the_patience_for_hung_ranks():
    world = World(hang_timeout_s=600.0)
    world.join("0.a", "1.a")
    world.run(1)
    began = world.now
    assert world.roster.silent_nodes(world.now) == set()
    while not world.killed():
        world.run(0.25, "1.a")
        world.roster.unreachable = world.roster.silent_nodes(world.now)
        assert world.roster.unreachable <= {"node1"}
    assert world.now - began <= 5
    assert world.incidents[0].node_answers is False
    assert "nor of its node" in world.incidents[0].detail


def test_workers_of_a_draining_node_leave_after_a_commit_when_the_others_are_enough():
    world = World(slots=2, min_workers=1, may_shrink=True, keep_state=True)
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.draining({"node1"}, room=0, now=world.now)
    (told,) = world.incidents
    assert (told.signal, told.victim.joined.worker, told.may_move) == (Signal.NODE_DRAINING, "1.a", True)
    assert world.roster.is_formed
    assert world.wishes("0.a").regroup
    assert world.wishes("0.a").commit_now
    world.step_and_leave(7, "0.a", "1.a")
    assert len(world.moved()) == 1
    assert world.roster.has_left("1.a")
    assert not world.roster.has_left("0.a")
    second = world.formations()[-1]
    assert (second.workers, second.source) == (("0.a",), Source.PEER)
    assert not world.wishes("0.a").commit_now
    world.roster.lost("1.a", Signal.PROCESS_EXIT, "its node went", world.now)
    assert len(world.incidents) == 1


def test_in_restart_those_that_stay_go_back_to_the_commit_of_that_very_step():
    world = World(slots=1, keep_state=False)
    world.join("0.a", "1.standby")
    world.run(1)
    world.roster.draining({"node0"}, room=0, now=world.now)
    world.step_and_leave(7, "0.a")
    second = world.formations()[-1]
    assert (second.workers, second.source) == (("1.standby",), Source.CHECKPOINT)


def test_where_too_few_stay_all_go_for_a_new_launch_if_there_is_room_for_it():
    world = World()
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.draining({"node1"}, room=1, now=world.now)
    world.step_and_leave(7, "0.a", "1.a")
    assert world.roster.relaunching
    assert world.roster.has_left("0.a")
    assert world.roster.has_left("anybody")
    world.roster.lost("0.a", Signal.PROCESS_EXIT, "it ended", world.now)
    world.run(20)
    assert len(world.incidents) == 1
    world.roster.launched(2, world.now)
    world.join("0.b", "1.b")
    world.run(0.25)
    second = world.formations()[-1]
    assert (second.workers, second.source, second.attempt) == (("0.b", "1.b"), Source.CHECKPOINT, 2)


def test_without_room_what_there_is_is_committed_once_and_training_goes_on_there():
    world = World()
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.draining({"node1"}, room=0, now=world.now)
    assert [told.may_move for told in world.incidents] == [False]
    assert world.wishes("0.a").commit_now
    assert not world.wishes("0.a").regroup
    world.roster.committed(5)
    assert not world.wishes("0.a").commit_now
    world.roster.draining({"node1"}, room=0, now=world.now)
    assert len(world.incidents) == 1
    world.roster.draining({"node1"}, room=1, now=world.now)
    assert [told.may_move for told in world.incidents] == [False, True]
    assert world.wishes("0.a").regroup


def test_nobody_moves_away_from_the_driver_s_own_node():
    world = World(slots=2, min_workers=1, may_shrink=True)
    world.join("0.a", "1.a")
    world.roster.members["0.a"].joined = Joined("0.a", 0, 100, "10.0.0.1", "driver", None)
    world.run(1)
    world.roster.draining({"driver"}, room=9, now=world.now)
    assert [told.may_move for told in world.incidents] == [False]
    assert not world.wishes("0.a").regroup


def test_a_commit_that_failed_keeps_the_workers_of_a_draining_node_for_another_try():
    world = World(slots=2, min_workers=1, may_shrink=True, keep_state=True)
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.draining({"node1"}, room=0, now=world.now)
    world.roster.ready("0.a", 7, world.now)
    world.roster.ready("1.a", 7, world.now)
    world.run(0.25)
    assert world.moved() == []
    assert world.formations()[-1].size == 2
    world.roster.draining({"node1"}, room=0, now=world.now)
    assert not world.wishes("0.a").regroup
    world.run(10)
    world.roster.draining({"node1"}, room=0, now=world.now)
    assert world.wishes("0.a").regroup
    world.step_and_leave(9, "0.a", "1.a")
    assert world.formations()[-1].workers == ("0.a",)


def test_a_group_that_began_small_forms_at_once_and_grows_by_a_new_launch_when_there_is_room():
    world = World(slots=3, min_workers=1, may_shrink=True)
    world.roster.launched(2, world.now)
    world.join("0.a", "1.a")
    world.run(0.25)
    assert world.formations()[-1].size == 2
    world.roster.draining(set(), room=1, now=world.now)
    assert not world.wishes("0.a").regroup
    world.run(60)
    world.roster.draining(set(), room=0, now=world.now)
    assert not world.wishes("0.a").regroup
    world.roster.draining(set(), room=1, now=world.now)
    assert world.wishes("0.a").regroup
    world.step_and_leave(40, "0.a", "1.a")
    assert world.roster.relaunching
    world.roster.launched(3, world.now)
    world.join("0.b", "1.b")
    world.run(2)
    assert len(world.formations()) == 1
    world.join("2.b")
    world.run(0.25)
    assert world.formations()[-1].workers == ("0.b", "1.b", "2.b")
    assert world.incidents == []


def test_a_full_group_does_not_grow():
    world = World(slots=2, min_workers=1, may_shrink=True)
    world.roster.launched(3, world.now)
    world.join("0.a", "1.a")
    world.run(100)
    world.roster.draining(set(), room=8, now=world.now)
    assert not world.wishes("0.a").regroup


@given(
    st.lists(st.sampled_from(["kill0", "kill1", "kill2", "join", "wait", "ready"]), max_size=40),
    st.booleans(),
)
def test_a_formation_has_only_the_living_and_never_too_many(moves, shrink):
    world = World(slots=2, min_workers=1 if shrink else 2, may_shrink=shrink, keep_state=shrink)
    world.join("0.0", "1.0", "2.0")
    for count, move in enumerate(moves, start=1):
        living = [w for w, m in world.roster.members.items() if not m.is_dead]
        if move.startswith("kill"):
            for worker in [w for w in living if w.startswith(move[-1])]:
                world.roster.lost(worker, Signal.PROCESS_EXIT, "gone", world.now)
        elif move == "join":
            for rank in range(3):
                if not any(w.startswith(str(rank)) for w in living):
                    world.join(f"{rank}.{count}")
        elif move == "ready":
            for worker in living:
                if not world.roster.is_formed:
                    world.roster.ready(worker, count, world.now)
        before = len(world.formations())
        world.run(0.5)
        for formation in world.formations()[before:]:
            assert 1 <= formation.size <= 2
            assert len(set(formation.workers)) == formation.size
            assert shrink or formation.size == 2
    generations = [formation.generation for formation in world.formations()]
    assert generations == list(range(1, len(generations) + 1))


def test_a_proof_is_due_after_a_failure_and_not_when_somebody_joins():
    world = World(slots=2, min_workers=1, keep_state=True, prove=True)
    world.join("0.a", "1.a")
    world.run(1)
    world.roster.lost("1.a", Signal.PROCESS_EXIT, "gone", world.now)
    world.roster.ready("0.a", 5, world.now)
    world.run(1)
    world.join("1.b")
    world.roster.ready("0.a", 6, world.now)
    world.run(1)
    first, alone, both = world.formations()
    assert (first.source, first.prove) == (Source.CHECKPOINT, False)
    assert (alone.workers, alone.source, alone.prove) == (("0.a",), Source.PEER, True)
    assert (both.workers, both.source, both.prove) == (("0.a", "1.b"), Source.PEER, False)


def test_however_many_run_out_of_memory_in_a_step_microbatches_are_halved_once():
    world = World(slots=4, verdict=Verdict(shrink_microbatch=True))
    workers = [f"{rank}.a" for rank in range(4)]
    world.join(*workers)
    for divisor in (1, 2, 4):
        world.run(1)
        assert world.formations()[-1].microbatch_divisor == divisor
        for worker in workers:
            world.roster.raised(worker, Signal.OUT_OF_MEMORY, "too big", world.now)
            world.roster.ready(worker, 3, world.now)
    assert len(world.incidents) == 12


def test_who_has_come_back_from_a_formation_is_known_until_the_next(pair):
    pair.roster.lost("1.a", Signal.PROCESS_EXIT, "gone", pair.now)
    assert pair.incidents[0].victim.left_in < pair.incidents[0].generation
    pair.roster.ready("0.a", 7, pair.now)
    assert pair.roster.members["0.a"].left_in == 1
    pair.join("1.b")
    pair.run(0.25)
    assert pair.roster.members["0.a"].left_in < pair.roster.generation


def test_those_that_are_warm_and_wait_are_counted_as_long_as_they_live(pair):
    assert pair.roster.spare() == 0
    pair.join("2.standby", "3.standby")
    assert pair.roster.spare() == 2
    pair.roster.lost("2.standby", Signal.PROCESS_EXIT, "gone", pair.now)
    assert pair.roster.spare() == 1
    pair.roster.ready("0.a", 7, pair.now)
    assert pair.roster.spare() == 1
