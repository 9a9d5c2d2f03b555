"""What is left of a member's own state when taking up another one breaks off."""

from dataclasses import replace

import pytest

from cluster.errors import StorageError
from cluster.refs import VersionRef
from train_jobs import checkpoint, optimizers
from train_jobs.certificate import Verdict, compare
from train_jobs.dataset import load_dataset
from train_jobs.formation.group import Group, GroupLostError
from train_jobs.formation.messages import Formation, Source
from train_jobs.journal import Journal, entry_of
from train_jobs.loop import Wishes
from train_jobs.resuming import Resuming
from train_jobs.state import Kept
from train_jobs.tracking import Trackers
from train_jobs.trainee import Trainee


class Torn(Group):
    """A group of two in which the other member is at `peer_step`, and is lost at the exchange `last`."""

    def __init__(self, rank, peer_step, last):
        super().__init__(rank, 1)
        self.peer_step, self.left = peer_step, last

    def _exchange(self):
        if not self.left:
            raise GroupLostError("a peer is gone")
        self.left -= 1

    def from_rank(self, source, value):
        self._exchange()
        return value

    def gather(self, value):
        self._exchange()
        return [value, self.peer_step]

    def broadcast(self, tensor, source):
        self._exchange()
        return tensor


@pytest.fixture
def begun(spec, settings, store, tiny_dir, data_file):
    made = Trainee(
        spec, settings, VersionRef(model="tiny", version="v1"), load_dataset(spec, tiny_dir, data_file), bool
    )
    made.warm()
    made.take_part(Group(), _unheard)
    first = made.loop.run_step(1, Group(), Wishes(), _unheard)
    made.step = 1
    return made, first


@pytest.fixture
def trainee(begun):
    """It has trained one step."""
    return begun[0]


@pytest.fixture
def resuming(begun, files, spec, settings):
    journal = Journal(files, Trackers(spec, files, settings))
    journal.enter(begun[1], 1)
    return Resuming(files, begun[0], journal)


def _unheard(phase, step=None):
    """Nobody watches."""


def formation(source, source_rank=0):
    return Formation(2, 2, ("0.a", "1.b"), ("127.0.0.1", 1), source, source_rank, 1)


@pytest.mark.parametrize("last", range(6))
def test_who_gives_its_state_keeps_it_wherever_the_newcomer_is_lost(resuming, trainee, last):
    with pytest.raises(GroupLostError):
        resuming.take_up(formation(Source.PEER), Torn(0, -1, last), True, _unheard)
    assert resuming.has_state
    assert trainee.step == 1


@pytest.mark.parametrize(("last", "keeps"), [(0, True), (1, False), (3, False)])
def test_who_is_to_take_another_state_has_none_from_the_first_tensor_on(resuming, trainee, last, keeps):
    class Behind(Torn):
        def from_rank(self, source, value):
            super().from_rank(source, value)
            held = resuming._find(formation(Source.PEER))
            return type(held)(7, held.scalars, held.past)

        def gather(self, value):
            return [value, 7]

    with pytest.raises(GroupLostError):
        resuming.take_up(formation(Source.PEER, 0), Behind(1, 7, last), True, _unheard)
    assert resuming.has_state is keeps


def test_who_goes_back_to_a_checkpoint_has_nothing_until_it_is_there(resuming):
    with pytest.raises(GroupLostError):
        resuming.take_up(formation(Source.CHECKPOINT), Torn(0, -1, 0), True, _unheard)
    assert not resuming.has_state
    resuming.take_up(formation(Source.CHECKPOINT), Group(), True, _unheard)
    assert resuming.has_state


def repeated(trainee):
    """Step 2 as it comes out from the state as it is, which stays."""
    scalars, kept = optimizers.scalars(trainee.layout.optimizer), Kept(trainee.layout)
    result = trainee.loop.run_step(2, Group(), Wishes(), _unheard)
    kept.put_back()
    optimizers.set_scalars(trainee.layout.optimizer, scalars)
    return entry_of(result, 1)


def test_a_lost_state_of_the_optimizer_is_found_by_repeating_one_step(trainee):
    recorded = repeated(trainee)
    assert compare(recorded, repeated(trainee)) is None
    for tensor in trainee.layout.state().values():
        tensor.zero_()
    again = repeated(trainee)
    assert (again.loss, again.grad_norm) == (recorded.loss, recorded.grad_norm)
    assert compare(recorded, again).startswith("step 2: fingerprint was")


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(1, 1, Verdict.EQUAL), (2, 2, Verdict.EQUAL), (1, 2, Verdict.NOTHING), (2, 1, Verdict.NOTHING)],
)
def test_microbatches_of_another_size_prove_nothing(resuming, trainee, before, after, verdict):
    """They round and draw otherwise, which is no mistake."""

    def rehearse(divisor):
        trainee.cut_microbatches(divisor)
        return repeated(trainee)

    resuming._rehearsed = (rehearse(before), rehearse(after))
    certificate = resuming.judge_rehearsal()
    assert certificate.verdict is verdict
    assert bool(certificate.note) == (verdict is Verdict.NOTHING)


def test_draws_of_another_seed_are_no_matter_of_the_microbatches_size(resuming, trainee):
    recorded = repeated(trainee)
    resuming._rehearsed = (recorded.model_copy(update={"draws": "0123456789abcdef"}), recorded)
    certificate = resuming.judge_rehearsal()
    assert (certificate.verdict, certificate.difference[:12]) == (Verdict.UNEQUAL, "step 2: draw")


def _refused(files, before=None):
    raise StorageError("the disk does not answer", code="storage.refused")


def test_survivors_go_on_without_a_proof_where_nothing_can_be_read(resuming, trainee, monkeypatch):
    monkeypatch.setattr(checkpoint, "discover", _refused)
    proving = replace(formation(Source.PEER), prove=True)
    resuming.take_up(proving, Group(), True, _unheard)
    certificate = resuming.judge_rehearsal()
    assert (certificate.verdict, trainee.step, resuming.has_state) == (Verdict.NOTHING, 1, True)
    assert "the disk does not answer" in certificate.note


def test_who_has_only_the_checkpoint_does_not_go_on_without_it(resuming, monkeypatch):
    monkeypatch.setattr(checkpoint, "discover", _refused)
    with pytest.raises(StorageError):
        resuming.take_up(formation(Source.CHECKPOINT), Group(), True, _unheard)
    assert not resuming.has_state


def test_a_newcomer_that_did_not_get_everything_has_nothing(resuming):
    with pytest.raises(GroupLostError):
        resuming.take_up(formation(Source.PEER, 1), Torn(0, 7, 0), False, _unheard)
    assert not resuming.has_state
