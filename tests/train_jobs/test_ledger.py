import math
import struct

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import ConflictError, IntegrityError, NotFoundError
from cluster.manifest import CheckpointManifest
from train_jobs import checkpoint, ledger
from train_jobs.ledger import StepEntry
from train_jobs.sampling import step_samples

SIZE = 64


def entry(spec, step, **changed):
    batch = spec.global_batch_size
    usual = StepEntry(
        step=step,
        samples=step_samples(spec.seed, step, dataset_size=SIZE, batch_size=batch),
        loss=1 / step,
        grad_norm=0.1 * step,
        learning_rate=1e-3 / 3,
        weight=17,
        tokens=170,
        draws=f"{step:016x}",
        fingerprint=f"{step + 1:016x}",
        attempt=1,
    )
    return usual.model_copy(update=changed)


def write(files, spec, first, last, previous=None, **changed):
    entries = [entry(spec, step, **changed) for step in range(first, last + 1)]
    return ledger.write_segment(files, entries, previous, spec, dataset_size=SIZE)


def stored(files, head):
    return files.storage.local_path(f"{files.ledger}/{head.file}")


def bits(value):
    return struct.pack("<d", value)


def test_a_segment_reads_back_as_it_was_written(files, spec):
    entries = [entry(spec, 1), entry(spec, 2, attempt=3, skipped=True)]
    head = ledger.write_segment(files, entries, None, spec, dataset_size=SIZE)
    segment = ledger.read_segment(files, head)
    assert segment.entries() == entries
    assert segment.meta.dataset_size == SIZE
    assert (segment.meta.run, segment.meta.seed, segment.meta.batch_size) == ("run-1", spec.seed, 8)
    assert (head.first_step, head.last_step, head.samples_total) == (1, 2, 16)
    assert head.file == f"1-2-{head.sha256[:8]}.parquet"


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None
)
@given(loss=st.floats(), norm=st.floats(), rate=st.floats())
def test_every_float_keeps_all_its_bits(files, spec, loss, norm, rate):
    given_entry = entry(spec, 1, loss=loss, grad_norm=norm, learning_rate=rate)
    head = ledger.write_segment(files, [given_entry], None, spec, dataset_size=SIZE)
    (found,) = ledger.read_segment(files, head).entries()
    for name in ("loss", "grad_norm", "learning_rate"):
        assert bits(getattr(found, name)) == bits(getattr(given_entry, name))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 0.1 + 0.2])
def test_an_entry_survives_json_even_when_its_loss_is_no_number(spec, value):
    found = StepEntry.model_validate_json(entry(spec, 1, loss=value).model_dump_json())
    assert repr(found.loss) == repr(value)


def test_the_chain_goes_from_the_newest_segment_to_the_first(files, spec):
    one = write(files, spec, 1, 3)
    two = write(files, spec, 4, 4, one)
    three = write(files, spec, 5, 9, two)
    assert [segment.head for segment in ledger.chain(files, three)] == [three, two, one]
    assert three.samples_total == 9 * 8
    assert list(ledger.chain(files, None)) == []
    assert ledger.segment_files(files) == sorted([one.file, two.file, three.file])


def test_the_samples_of_a_segment_come_as_arrays(files, spec):
    head = write(files, spec, 4, 6, write(files, spec, 1, 3))
    samples, ends = ledger.read_segment(files, head).batches
    assert samples.tolist() == [index for step in (4, 5, 6) for index in entry(spec, step).samples]
    assert ends.tolist() == [8, 16, 24]


def test_writing_goes_on_from_the_head_alone(files, spec):
    one = write(files, spec, 1, 3)
    stored(files, one).unlink()
    two = write(files, spec, 4, 6, one)
    assert ledger.read_segment(files, two).meta.previous == one


def test_the_same_segment_may_be_written_again_and_another_attempts_is_beside_it(files, spec):
    head = write(files, spec, 1, 3)
    before = stored(files, head).stat()
    assert write(files, spec, 1, 3) == head
    assert stored(files, head).stat().st_mtime_ns == before.st_mtime_ns
    other = write(files, spec, 1, 3, attempt=2)
    assert other.file != head.file
    assert len(ledger.segment_files(files)) == 2


def test_no_steps_leave_the_head_where_it_is(files, spec):
    head = write(files, spec, 1, 3)
    assert ledger.write_segment(files, [], head, spec, dataset_size=SIZE) == head
    assert ledger.segment_files(files) == [head.file]


@pytest.mark.parametrize("steps", [[], [2], [1, 3], [1, 1], [2, 1]])
def test_steps_that_do_not_begin_at_one_and_follow_on_each_other_are_refused(files, spec, steps):
    with pytest.raises(ConflictError) as caught:
        ledger.write_segment(files, [entry(spec, step) for step in steps], None, spec, dataset_size=SIZE)
    assert caught.value.code == "ledger.gap"
    assert ledger.segment_files(files) == []


@pytest.mark.parametrize("first", [3, 5])
def test_a_segment_must_go_on_where_the_one_before_it_ended(files, spec, first):
    head = write(files, spec, 1, 3)
    with pytest.raises(ConflictError, match=f"step 4; step {first}"):
        write(files, spec, first, 6, head)


@pytest.mark.parametrize("place", [0, 100, -20])
def test_one_flipped_bit_is_found_wherever_it_is(files, spec, place):
    one = write(files, spec, 1, 3)
    two = write(files, spec, 4, 6, one)
    data = bytearray(stored(files, one).read_bytes())
    data[place] ^= 1
    stored(files, one).write_bytes(data)
    walk = ledger.chain(files, two)
    assert next(walk).head == two
    with pytest.raises(IntegrityError, match=one.file) as caught:
        next(walk)
    assert caught.value.code == "ledger.damaged"


def test_a_missing_segment_is_named(files, spec):
    head = write(files, spec, 1, 3)
    stored(files, head).unlink()
    with pytest.raises(NotFoundError, match=head.file):
        ledger.read_segment(files, head)


def test_a_segment_under_a_wrong_head_is_refused(files, spec):
    head = write(files, spec, 1, 3)
    with pytest.raises(IntegrityError, match="steps 1 to 4"):
        ledger.read_segment(files, head.model_copy(update={"last_step": 4}))


def test_other_bytes_under_the_same_name_are_never_overwritten(files, spec):
    head = write(files, spec, 1, 3)
    stored(files, head).write_bytes(b"somebody else's")
    with pytest.raises(IntegrityError):
        write(files, spec, 1, 3)
    assert stored(files, head).read_bytes() == b"somebody else's"


def test_a_file_with_the_right_hash_that_is_no_segment_is_damaged(files, spec):
    head = write(files, spec, 1, 3)
    digest = files.storage.write_atomic(f"{files.ledger}/{head.file}", b"PAR1 but not really PAR1")
    with pytest.raises(IntegrityError) as caught:
        ledger.read_segment(files, head.model_copy(update={"sha256": digest}))
    assert caught.value.code == "ledger.damaged"


def test_a_checkpoint_carries_its_head(files, spec):
    head = write(files, spec, 1, 3)
    checkpoint.commit(files, {"x": b"x"}, step=3, attempt=1, world_size=2, metrics={}, ledger=head)
    assert checkpoint.manifest_of(files, 3).ledger == head
    without = CheckpointManifest(run="r", step=1, attempt=1, world_size=1, files={})
    assert without.ledger is None


class TestHeadOf:
    """The end of the ledger that a run goes on from."""

    @pytest.fixture
    def heads(self, files, spec):
        """Steps 1-3, 4-6 and 7-9; each in a checkpoint of its own."""
        found, previous = {}, None
        for first in (1, 4, 7):
            previous = found[first + 2] = write(files, spec, first, first + 2, previous)
            checkpoint.commit(
                files, {"x": b"w"}, step=first + 2, attempt=1, world_size=1, metrics={}, ledger=previous
            )
        return found

    def test_the_newest_is_taken(self, files, heads):
        assert ledger.head_of(files, 6, 9) == heads[9]
        assert ledger.head_of(files, 0, 8) == heads[6]

    def test_a_checkpoint_beyond_the_state_at_hand_does_not_count(self, files, heads):
        assert ledger.head_of(files, 3, 5) == heads[3]

    def test_an_unreadable_manifest_is_looked_past(self, files, heads):
        files.storage.write_atomic(f"{files.checkpoints}/step_9/manifest.json", b"{")
        assert ledger.head_of(files, 6, 9) == heads[6]

    def test_the_segment_of_a_checkpoint_that_is_gone_is_found_by_its_name(self, files, heads):
        for step in heads:
            checkpoint.remove_step(files, step)
        assert ledger.head_of(files, 6, 8) == heads[6]
        assert ledger.head_of(files, 3, 5) == heads[3]

    def test_without_any_record_it_is_an_error_and_before_the_first_step_nothing(self, files, heads):
        for step in heads:
            checkpoint.remove_step(files, step)
        for name in ledger.segment_files(files):
            files.storage.delete_file(f"{files.ledger}/{name}")
        with pytest.raises(IntegrityError, match="up to 6"):
            ledger.head_of(files, 6, 8)
        assert ledger.head_of(files, 0, 2) is None
