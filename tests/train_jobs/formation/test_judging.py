"""Decisions, receipts and what is remembered, with the journals on disk and a clock of our own."""

import pytest

from cluster.errors import LinnetError, StorageError
from cluster.recovery import receipts
from cluster.recovery.classes import FailureClass, Signal
from cluster.recovery.situation import Reason, Strategy
from cluster.storage import Storage
from train_jobs.formation.crew import Incident, Member
from train_jobs.formation.judging import Judge, Views
from train_jobs.formation.messages import Advanced, Beat, Formation, Formed, Joined, Phase, Source
from train_jobs.spec import BadLoss

SAMPLES = ["s1", "s2"]


def samples_of(step):
    return [f"{step}:{name}" for name in SAMPLES]


class Court:
    """A judge of one launch, and the run that it judges."""

    def __init__(self, spec, files, committed=0, live=2, **failures):
        self.spec = spec.model_copy(update={"failures": spec.failures.model_copy(update=failures)})
        self.files, self.now, self.attempt, self.divisor, self.standby = files, 1000.0, 0, 1, 0
        views = Views(lambda: live, lambda: self.standby, samples_of, lambda _: True, "driver")
        self.judge = Judge(self.spec, files, committed, views)
        self.members = [self.member(rank) for rank in range(self.spec.slots)]
        self.form(committed)

    def member(self, rank, node=None):
        joined = Joined(f"{rank}.a", rank, 100 + rank, "10.0.0.1", node or f"node{rank}", None)
        beat = Beat(joined.worker, 1, Phase.COMPUTING, 3, 1, 1.0)
        return Member(joined, self.now, self.now, beat)

    def form(self, step, source=Source.PEER):
        self.attempt += 1
        workers = tuple(member.joined.worker for member in self.members)
        formation = Formation(self.attempt, self.attempt, workers, ("127.0.0.1", 1), source, 0, self.divisor)
        self.judge.forming(formation, self.now)
        self.now += 1
        self.judge.formed(Formed(self.attempt, step, (), 0.5), formation, self.now)

    def step(self, number, skipped=""):
        self.now += 1
        self.judge.advanced(Advanced(self.attempt, number, 0.8, "", skipped), self.now)

    def fail(self, signal=Signal.PROCESS_EXIT, rank=1, after=1.0, **known):
        self.now += after
        victim = None if rank is None else self.members[rank]
        detail = known.pop("detail", "it ended")
        return self.judge(Incident(signal, victim, detail, self.now - 0.5, self.now, self.attempt, **known))

    def receipts(self):
        return receipts.read(self.files.storage, self.files.receipts)


@pytest.fixture
def court(spec, files):
    return Court(spec, files)


def test_a_decision_is_on_disk_before_anything_acts_on_it_and_its_cost_later(court):
    court.step(1)
    court.fail()
    (before,) = court.receipts()
    assert (before.number, before.attempt_after, before.total_s) == (1, None, 0.5)
    court.form(0)
    court.step(1)
    court.step(2)
    (after,) = court.receipts()
    assert (after.number, after.attempt_after, after.steps_redone) == (1, 2, 1)
    assert after.total_s == 0.5 + 3.0


def test_a_bad_loss_that_ends_the_run_has_a_receipt_with_its_samples_and_keeps_its_error(court):
    court.step(1)
    error = LinnetError("Step 2 has the loss nan.", code="train.not_finite")
    verdict = court.fail(Signal.NOT_FINITE, rank=0, error=error, step=2, detail="train.not_finite: nan")
    assert verdict.stop is error
    (told,) = court.receipts()
    assert told.failure_class is FailureClass.BAD_LOSS
    assert (told.strategy, told.reason) == (Strategy.STOP, Reason.AS_SPECIFIED)
    assert told.samples == ("2:s1", "2:s2")
    assert (told.code, told.attempt_after) == ("train.not_finite", None)


def test_an_error_that_a_repetition_would_meet_again_ends_the_run_with_a_receipt(court):
    error = LinnetError("Step 3 came out differently.", code="train.certificate")
    assert court.fail(Signal.RAISED, error=error, step=3).stop is error
    (told,) = court.receipts()
    assert (told.failure_class, told.reason) == (FailureClass.PROGRAM_ERROR, Reason.NOT_RETRYABLE)
    assert (told.code, told.samples) == ("train.certificate", ("3:s1", "3:s2"))


def test_a_worker_that_cannot_start_blames_no_sample(court):
    error = LinnetError("Rank 0 cannot start.", code="train.cannot_start")
    assert court.fail(Signal.RAISED, rank=None, error=error).stop is error
    (told,) = court.receipts()
    assert (told.victim, told.samples) == (None, ())


def test_a_skipped_batch_has_a_receipt_once_and_is_no_failure(spec, files):
    court = Court(spec, files, on_bad_loss=BadLoss.SKIP, max_failures=0)
    court.step(1)
    court.step(2, skipped="Step 2 has the loss nan")
    (told,) = court.receipts()
    assert (told.failure_class, told.strategy) == (FailureClass.BAD_LOSS, Strategy.SKIP_BATCH)
    assert (told.samples, told.steps_redone, told.victim) == (("2:s1", "2:s2"), 0, None)
    assert told.detect_s == pytest.approx(0.8)
    assert "batch of step 2" in told.decided
    court.form(1)
    court.step(2, skipped="Step 2 has the loss nan")
    assert len(court.receipts()) == 1
    assert not court.judge.is_recovering


def test_the_last_error_names_its_cause(spec, files):
    court = Court(spec, files, max_failures=0)
    full = StorageError("The disk is full.", code="storage.full", hint="Free some room.", retryable=True)
    stop = court.fail(Signal.STORAGE_ERROR, error=full, detail="storage.full: The disk is full.").stop
    assert stop.code == "train.budget_spent"
    assert "Last: storage.full: The disk is full." in stop.message
    assert stop.hint.startswith("Free some room.")
    assert f"linnet train show {spec.run}" in stop.hint


def test_a_crash_that_repeats_itself_is_recognised_over_launches(spec, files):
    for _ in range(2):
        assert Court(spec, files).fail().stop is None
    stop = Court(spec, files).fail().stop
    assert stop.code == "train.deterministic"
    assert "1:s1, 1:s2" in stop.message
    assert [told.number for told in receipts.read(files.storage, files.receipts)] == [1, 2, 3]


def test_the_budget_holds_over_launches_and_a_new_start_after_a_stop_has_a_new_one(spec, files):
    nodes = {"signal": Signal.NODE_GONE}
    assert Court(spec, files, max_failures=1).fail(**nodes).stop is None
    assert Court(spec, files, max_failures=1).fail(**nodes).stop.code == "train.budget_spent"
    assert Court(spec, files, max_failures=1).fail(**nodes).stop is None


def test_a_commit_beyond_the_failures_of_an_earlier_launch_refills_the_budget(spec, files):
    assert Court(spec, files, max_failures=1).fail(Signal.NODE_GONE).stop is None
    assert Court(spec, files, committed=3, max_failures=1).fail(Signal.NODE_GONE).stop is None


def test_a_draining_node_costs_no_step_and_is_past_only_when_its_workers_have_left(court):
    court.step(1)
    court.fail(Signal.NODE_DRAINING)
    assert not court.judge.is_recovering
    court.step(2)
    court.judge.committed(2, court.now)
    assert [told.attempt_after for told in court.receipts()] == [None]
    court.now += 1
    court.judge.moved(court.now)
    court.form(2)
    court.step(3)
    (told,) = court.receipts()
    assert (told.failure_class, told.strategy) == (FailureClass.NODE_DRAINING, Strategy.COMMIT_THEN_MOVE)
    assert (told.attempt_after, told.steps_redone, told.step, told.committed_step) == (2, 0, 2, 2)
    assert (told.detect_s, told.isolate_s, told.recover_s, told.verify_s) == (0.5, 2.0, 1.0, 1.0)


def test_a_draining_node_that_has_to_be_stayed_on_is_past_with_its_commit(court):
    court.step(1)
    court.fail(Signal.NODE_DRAINING, may_move=False)
    court.step(2)
    court.judge.committed(2, court.now)
    (told,) = court.receipts()
    assert (told.attempt_after, told.steps_redone) == (1, 0)
    assert "training goes on there" in told.decided


def test_a_node_that_goes_before_its_workers_could_has_both_receipts(court):
    court.step(1)
    court.fail(Signal.NODE_DRAINING)
    court.members[1].is_dead = True
    court.fail(Signal.NODE_GONE)
    court.form(0)
    court.step(1)
    court.step(2)
    assert [(told.failure_class, told.attempt_after) for told in court.receipts()] == [
        (FailureClass.NODE_DRAINING, 2),
        (FailureClass.NODE_LOST, 2),
    ]


def test_a_drain_of_the_driver_s_node_says_what_to_do(court):
    court.members[1] = court.member(1, node="driver")
    court.fail(Signal.NODE_DRAINING, may_move=False)
    assert "linnet train run" in court.receipts()[0].decided


def test_what_is_open_when_the_run_is_over_is_closed(court):
    court.step(1)
    court.fail(Signal.NODE_DRAINING)
    court.judge.finished(court.now)
    assert [told.attempt_after for told in court.receipts()] == [1]


def test_a_node_of_which_nothing_answers_is_cut_off_and_not_hung(court):
    court.fail(Signal.NO_HEARTBEAT, node_answers=False)
    court.form(0)
    court.fail(Signal.NO_HEARTBEAT)
    classes = [told.failure_class for told in court.receipts()]
    assert classes == [FailureClass.NETWORK_STALL, FailureClass.HUNG_RANK]


def test_receipts_that_storage_does_not_take_are_written_with_the_next(court, monkeypatch):
    append, refused = receipts.append, []

    def refuse(storage: Storage, path: str, receipt: receipts.Receipt) -> None:
        refused.append(receipt.number)
        raise StorageError("The disk is full.", code="storage.full", retryable=True)

    monkeypatch.setattr(receipts, "append", refuse)
    assert court.fail().stop is None
    assert refused == [1]
    monkeypatch.setattr(receipts, "append", append)
    court.fail(rank=0)
    assert [told.number for told in court.receipts()] == [1, 2]


@pytest.fixture
def nine(spec, files):
    """A court over nine workers, of which the last eight are on one node."""
    court = Court(spec.model_copy(update={"num_workers": 9}), files, live=1)
    court.members[1:] = [court.member(rank, node="large") for rank in range(1, 9)]
    return court


@pytest.mark.parametrize("apart_s", [0.2, 3.0])
def test_a_node_with_many_workers_is_one_failure_with_a_receipt_each(nine, apart_s):
    verdicts = [nine.fail(Signal.NODE_GONE, rank, after=apart_s) for rank in range(1, 9)]
    assert [(verdict.stop, verdict.wait_s) for verdict in verdicts] == [(None, 0)] * 8
    told = nine.receipts()
    assert [kept.victim.rank for kept in told] == list(range(1, 9))
    assert [kept.joins for kept in told] == [None] + [1] * 7
    assert {kept.reason for kept in told} == {Reason.TRANSIENT}
    nine.form(0)
    assert nine.fail(Signal.NODE_GONE, 0).wait_s == 1
    nine.form(0)
    nine.step(1)
    assert {kept.attempt_after for kept in nine.receipts()} == {3}


def test_processes_of_a_node_that_are_missed_before_the_node_is_are_the_same_failure(nine):
    nine.fail(Signal.PROCESS_EXIT, 1)
    nine.fail(Signal.NODE_GONE, 2, after=9.0)
    first, second = nine.receipts()
    assert (first.failure_class, second.failure_class) == (FailureClass.WORKER_CRASH, FailureClass.NODE_LOST)
    assert second.joins == 1


def test_who_crashes_later_after_it_came_back_or_in_another_way_has_failed_on_its_own(nine):
    nine.fail(Signal.PROCESS_EXIT, 0)
    assert nine.fail(Signal.NODE_GONE, 1, after=9.0).wait_s == 1
    nine.members[2].left_in = nine.attempt
    assert nine.fail(Signal.PROCESS_EXIT, 2, after=9.0).wait_s == 2
    assert [kept.joins for kept in nine.receipts()] == [None] * 3


def test_a_failure_of_the_next_formation_is_another_one(nine):
    nine.fail(Signal.PROCESS_EXIT, 0)
    nine.form(0)
    assert nine.fail(Signal.PROCESS_EXIT, 1, after=0.1).wait_s == 1
    assert [kept.joins for kept in nine.receipts()] == [None, None]


def test_a_node_that_drains_is_not_what_the_next_one_dies_of(court):
    court.fail(Signal.NODE_DRAINING)
    court.fail(Signal.NODE_GONE, after=0.1)
    assert [kept.joins for kept in court.receipts()] == [None, None]


def test_all_that_run_out_of_memory_in_one_step_halve_their_microbatches_once(nine):
    verdicts = [nine.fail(Signal.OUT_OF_MEMORY, rank, after=5.0) for rank in range(9)]
    assert all(verdict.shrink_microbatch and verdict.stop is None for verdict in verdicts)
    assert all("of 2 rows instead of 4" in kept.decided for kept in nine.receipts())
    nine.divisor = 2
    nine.form(0)
    nine.fail(Signal.OUT_OF_MEMORY, 0)
    assert "of 1 row instead of 2" in nine.receipts()[-1].decided


def test_lack_of_memory_at_one_row_is_recognised_whoever_tells_of_it_first(nine):
    nine.divisor = 4
    for first in (0, 4):
        nine.form(0)
        for rank in (first, *range(first + 1, 9), *range(first)):
            assert nine.fail(Signal.OUT_OF_MEMORY, rank, after=0.1).stop is None
    nine.form(0)
    assert nine.fail(Signal.OUT_OF_MEMORY, 8).stop.code == "train.deterministic"


def test_a_poisoned_slot_is_found_in_a_group_that_shrinks(spec, files):
    court = Court(spec.model_copy(update={"num_workers": 4}), files)
    for size in (4, 3):
        assert court.fail(rank=3 % size).stop is None
        court.members = [court.member(rank) for rank in range(size - 1)]
        court.form(0)
    stop = court.fail(rank=1).stop
    assert stop.code == "train.deterministic"
    assert "slot 3 each time" in stop.message
    assert "1:s1, 1:s2" in stop.message
    assert [kept.slots for kept in court.receipts()] == [(3,), (0, 3), (1, 3)]


def test_a_crash_early_in_a_step_counts_where_the_last_sign_of_life_is_of_the_step_before(court):
    court.step(1)
    for phase in (Phase.EXCHANGING, Phase.SAVING, Phase.RESTORING):
        beat = Beat("1.a", court.attempt, phase, 1, 7, 1.0)
        court.members[1].beat = beat
        stop = court.fail().stop
        court.form(1)
    assert stop.code == "train.deterministic"


def test_a_standby_is_promised_where_one_is_warm(spec, files):
    court = Court(spec.model_copy(update={"num_workers": 2, "standby": 1}), files, live=0)
    court.fail()
    court.form(0)
    court.standby = 2
    court.fail()
    assert "new worker" in court.receipts()[0].decided
    assert "warm standby" in court.receipts()[1].decided


def refuse_to_read(court, monkeypatch):
    def refuse():
        raise StorageError("The bucket does not answer.", code="storage.unreachable", retryable=True)

    monkeypatch.setattr(court.files, "read_steps", refuse)


def test_a_receipt_is_closed_with_the_facts_at_hand_where_the_metrics_cannot_be_read(court, monkeypatch):
    refuse_to_read(court, monkeypatch)
    court.fail()
    court.form(0)
    court.step(1)
    (told,) = court.receipts()
    assert (told.attempt_after, told.goodput) == (2, 0.0)
    assert told.total_s == 2.5


def test_a_stop_holds_where_the_metrics_cannot_be_read(spec, files, monkeypatch):
    court = Court(spec, files, max_failures=0)
    refuse_to_read(court, monkeypatch)
    assert court.fail(Signal.NODE_GONE).stop.code == "train.budget_spent"
    assert court.receipts()[0].strategy is Strategy.STOP


def test_a_run_that_diverged_stops_with_its_own_error_though_bad_losses_are_skipped(spec, files):
    court = Court(spec, files, on_bad_loss=BadLoss.SKIP)
    error = LinnetError("Step 3 has the loss 9.0.", code="train.diverged")
    assert court.fail(Signal.SPIKE, rank=0, error=error, step=3).stop is error
    (told,) = court.receipts()
    assert (told.failure_class, told.code) == (FailureClass.BAD_LOSS, "train.diverged")
    assert (told.strategy, told.samples) == (Strategy.STOP, ("3:s1", "3:s2"))


def test_whatever_befalls_a_formation_in_one_moment_is_one_failure(nine):
    nine.fail(Signal.PROCESS_EXIT, 0)
    nine.fail(Signal.NODE_GONE, 1, after=1.5)
    nine.fail(Signal.NODE_GONE, 2, after=1.5)
    assert [kept.joins for kept in nine.receipts()] == [None, 1, None]


def test_further_victims_cost_neither_budget_nor_patience(spec, files):
    court = Court(spec.model_copy(update={"num_workers": 4}), files, max_failures=2)
    court.fail(Signal.NODE_GONE)
    court.form(0)
    verdicts = [court.fail(Signal.NODE_GONE, rank, after=5.0) for rank in range(4)]
    assert [verdict.wait_s for verdict in verdicts] == [1, 0, 0, 0]
    assert [verdict.stop for verdict in verdicts] == [None] * 4
    court.form(0)
    assert court.fail(Signal.NODE_GONE).stop.code == "train.budget_spent"


def test_after_falling_back_to_an_older_checkpoint_progress_counts_from_there(spec, files):
    court = Court(spec, files, committed=20, max_failures=1)
    court.form(10, Source.CHECKPOINT)
    assert court.judge.committed_step == 10
    court.step(11)
    assert court.fail().stop is None
    court.form(10, Source.CHECKPOINT)
    court.step(11)
    assert court.fail(rank=0).stop is not None
