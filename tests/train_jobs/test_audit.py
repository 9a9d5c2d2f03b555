import io
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.errors import IntegrityError, NotFoundError
from cluster.manifest import LedgerHead
from cluster.storage import Storage
from tests.train_jobs.test_ledger import SIZE, entry, stored, write
from train_jobs import checkpoint, ending, ledger
from train_jobs.audit import Kind, audit, audit_run, render, require_proven
from train_jobs.certificate import Certificate, Verdict, append_certificate
from train_jobs.ledger import SegmentMeta
from train_jobs.run_files import RunFiles


def commit(files, step, head, attempt=1):
    checkpoint.commit(
        files, {"x": b"weights"}, step=step, attempt=attempt, world_size=2, metrics={}, ledger=head
    )


def three_segments(files, spec):
    """Steps 1-3, 4-6 and 7-9, the last of which is committed."""
    one = write(files, spec, 1, 3)
    two = write(files, spec, 4, 6, one)
    three = write(files, spec, 7, 9, two)
    commit(files, 9, three)
    return one, two, three


def with_entry(files, spec, step, **changed):
    """The ledger of steps 1-6 in one segment, one of them other than it should be."""
    entries = [entry(spec, at, **(changed if at == step else {})) for at in range(1, 7)]
    head = ledger.write_segment(files, entries, None, spec, dataset_size=SIZE)
    commit(files, 6, head)


def forge(files, spec, first, last, previous):
    """A segment that the writer itself would refuse, sound in all its bytes."""
    table = pa.Table.from_pylist(
        [entry(spec, step).model_dump() for step in range(first, last + 1)], schema=ledger._SCHEMA
    )
    meta = SegmentMeta(run=files.run, seed=spec.seed, batch_size=8, dataset_size=SIZE, previous=previous)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"linnet.ledger": meta.model_dump_json()}), sink)
    file = f"{first}-{last}-forged.parquet"
    digest = files.storage.write_atomic(f"{files.ledger}/{file}", sink.getvalue())
    return LedgerHead(file=file, sha256=digest, first_step=first, last_step=last, samples_total=0)


def test_a_sound_run_is_proven(files, spec):
    three_segments(files, spec)
    found = audit(files, spec)
    assert (found.committed_step, found.steps, found.samples, found.segments) == (9, 9, 72, 3)
    assert (found.lost, found.repeated, found.unproven, found.skipped) == (0, 0, 0, 0)
    assert found.problems == []
    assert found.orphan_segments == []
    require_proven(found)
    assert render(found)[-1] == "Every step from 1 to 9 trained exactly what the seed prescribes, once."


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(
    lives=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["commits", "dies", "dies late"])), max_size=8
    )
)
def test_however_often_attempts_die_what_is_committed_is_proven(tmp_path_factory, spec, lives):
    files = RunFiles(Storage(str(tmp_path_factory.mktemp("root"))), "run-1")
    head, orphans = None, set()
    for attempt, (count, end) in enumerate(lives, 1):
        begun = head.last_step if head else 0
        if end == "dies":
            continue
        found = write(files, spec, begun + 1, begun + count, head, attempt=attempt)
        if end == "dies late":
            orphans.add(found.file)
            continue
        commit(files, found.last_step, found, attempt)
        head = found
    told = audit(files, spec)
    require_proven(told)
    assert told.committed_step == told.steps == (head.last_step if head else 0)
    assert told.samples == (head.samples_total if head else 0)
    assert set(told.orphan_segments) == orphans


@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None
)
@given(step=st.integers(1, 6), place=st.integers(0, 7), other=st.integers(0, SIZE - 1))
def test_no_single_wrong_sample_escapes(tmp_path_factory, spec, step, place, other):
    files = RunFiles(Storage(str(tmp_path_factory.mktemp("root"))), "run-1")
    right = entry(spec, step).samples
    wrong = [*right[:place], other, *right[place + 1 :]]
    with_entry(files, spec, step, samples=wrong)
    assert audit(files, spec).is_proven == (wrong == right)


def test_a_longer_run_needs_no_more_memory(tmp_path, spec):
    spec = spec.model_copy(update={"per_device_train_batch_size": 500})
    peaks = []
    for segments in (3, 30):
        files = RunFiles(Storage(str(tmp_path / str(segments))), "run-1")
        head = None
        for first in range(1, segments * 10, 10):
            head = write(files, spec, first, first + 9, head)
        commit(files, segments * 10, head)
        usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            assert audit(files, spec).samples == segments * 10_000
            peaks.append((tracemalloc.get_traced_memory()[1], pool.max_memory()))
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(usual)
    for short, long in zip(*peaks, strict=True):
        assert long < 1.5 * short


def test_a_run_that_committed_nothing_proves_nothing_and_fails_nothing(files, spec):
    orphan = write(files, spec, 1, 3)
    found = audit(files, spec)
    assert (found.committed_step, found.samples, found.orphan_segments) == (0, 0, [orphan.file])
    assert "nothing to prove" in render(found)[-1]
    require_proven(found)


def test_segments_of_attempts_that_died_are_orphans_and_count_for_nothing(files, spec):
    one, _, three = three_segments(files, spec)
    orphan = write(files, spec, 4, 5, one, attempt=2)
    found = audit(files, spec)
    assert found.orphan_segments == [orphan.file]
    assert found.samples == 72
    assert three.file not in found.orphan_segments


def test_a_lost_and_a_repeated_sample_are_named_with_their_step(files, spec):
    right = entry(spec, 4).samples
    with_entry(files, spec, 4, samples=[right[1], *right[1:]])
    found = audit(files, spec)
    assert (found.lost, found.repeated, found.unproven) == (1, 1, 0)
    assert [(p.step, p.kind, p.samples) for p in found.problems] == [
        (4, Kind.LOST, (right[0],)),
        (4, Kind.REPEATED, (right[1],)),
    ]
    assert (found.steps, found.samples) == (6, 47)
    assert f"lost          step 4: prescribed, but not trained (samples {right[0]})" in render(found)
    with pytest.raises(IntegrityError) as caught:
        require_proven(found)
    assert caught.value.code == "train.audit_failed"


def test_a_batch_of_another_length_is_found_though_all_samples_are_there(files, spec):
    fourth, fifth = entry(spec, 4).samples, entry(spec, 5).samples
    entries = [entry(spec, at) for at in range(1, 7)]
    entries[3] = entry(spec, 4, samples=[*fourth, fifth[0]])
    entries[4] = entry(spec, 5, samples=fifth[1:])
    commit(files, 6, ledger.write_segment(files, entries, None, spec, dataset_size=SIZE))
    found = audit(files, spec)
    assert [(p.step, p.kind, p.samples) for p in found.problems] == [
        (4, Kind.REPEATED, (fifth[0],)),
        (5, Kind.LOST, (fifth[0],)),
    ]


def test_the_right_samples_in_another_order_are_a_problem(files, spec):
    with_entry(files, spec, 2, samples=entry(spec, 2).samples[::-1])
    found = audit(files, spec)
    assert (found.lost, found.repeated) == (0, 0)
    assert [(p.step, p.kind) for p in found.problems] == [(2, Kind.ORDER)]
    with pytest.raises(IntegrityError):
        require_proven(found)


def test_a_batch_passed_over_on_purpose_is_skipped_not_lost(files, spec):
    with_entry(files, spec, 5, skipped=True, loss=float("nan"))
    found = audit(files, spec)
    assert (found.skipped, found.samples, found.lost, found.steps) == (8, 40, 0, 6)
    require_proven(found)


def test_a_step_that_the_ledger_leaves_out_is_lost(files, spec):
    one = write(files, spec, 1, 3)
    commit(files, 6, forge(files, spec, 5, 6, one))
    found = audit(files, spec)
    assert (found.lost, found.repeated, found.steps) == (8, 0, 5)
    assert [(p.step, p.kind, p.samples) for p in found.problems] == [
        (4, Kind.LOST, tuple(entry(spec, 4).samples))
    ]


def test_a_step_in_two_segments_is_repeated(files, spec):
    one = write(files, spec, 1, 3)
    commit(files, 6, forge(files, spec, 3, 6, one))
    found = audit(files, spec)
    assert (found.lost, found.repeated, found.steps, found.samples) == (0, 8, 6, 48)
    assert [(p.step, p.kind) for p in found.problems] == [(3, Kind.REPEATED)]


def test_a_ledger_that_ends_before_its_checkpoint_lacks_the_rest(files, spec):
    commit(files, 5, write(files, spec, 1, 3))
    found = audit(files, spec)
    assert found.lost == 16
    assert {p.step for p in found.problems} == {4, 5}


def test_a_ledger_that_goes_on_beyond_its_checkpoint_is_told(files, spec):
    commit(files, 2, write(files, spec, 1, 3))
    found = audit(files, spec)
    assert [(p.step, p.kind) for p in found.problems] == [(3, Kind.REPEATED)]


def test_a_damaged_segment_leaves_its_steps_and_those_before_it_unproven(files, spec):
    _, two, _ = three_segments(files, spec)
    stored(files, two).write_bytes(b"rubbish")
    found = audit(files, spec)
    assert (found.unproven, found.lost, found.repeated, found.samples) == (48, 0, 0, 24)
    assert [p.step for p in found.problems] == [4, 1]
    assert all(two.file in problem.detail for problem in found.problems)
    with pytest.raises(IntegrityError):
        require_proven(found)


@pytest.mark.parametrize("is_missing", [True, False])
def test_an_older_checkpoint_leads_past_a_damaged_segment(files, spec, is_missing):
    one, two, _ = three_segments(files, spec)
    commit(files, 3, one)
    if is_missing:
        stored(files, two).unlink()
    else:
        stored(files, two).write_bytes(b"rubbish")
    found = audit(files, spec)
    assert (found.unproven, found.samples) == (24, 48)
    assert [(p.step, p.kind) for p in found.problems] == [(4, Kind.UNPROVEN)]
    assert two.file in found.problems[0].detail


def test_past_a_damaged_segment_a_step_left_out_is_lost_again(files, spec):
    gapped = forge(files, spec, 5, 6, write(files, spec, 1, 3))
    commit(files, 6, gapped)
    newest = write(files, spec, 7, 9, gapped)
    commit(files, 9, newest)
    stored(files, newest).unlink()
    found = audit(files, spec)
    assert [(p.step, p.kind) for p in found.problems] == [(7, Kind.UNPROVEN), (4, Kind.LOST)]


def test_an_unreadable_newest_segment_is_named(files, spec):
    *_, three = three_segments(files, spec)
    stored(files, three).unlink()
    found = audit(files, spec)
    assert (found.unproven, found.samples) == (72, 0)
    assert three.file in found.problems[0].detail


def test_a_checkpoint_without_a_ledger_proves_nothing(files, spec):
    commit(files, 6, None)
    found = audit(files, spec)
    assert found.unproven == 48
    assert "names no ledger" in found.problems[0].detail


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_note(files, spec):
    _, two, three = three_segments(files, spec)
    commit(files, 6, two)
    files.storage.local_path(f"{files.checkpoints}/step_9/x").write_bytes(b"Weights")
    found = audit(files, spec)
    assert found.committed_step == 6
    assert found.orphan_segments == [three.file]
    assert len(found.notes) == 1
    assert "step_9" in found.notes[0]
    require_proven(found)


@pytest.mark.parametrize("change", [{"seed": 43}, {"num_workers": 4}])
def test_a_ledger_of_another_order_proves_nothing(files, spec, change):
    three_segments(files, spec)
    found = audit(files, spec.model_copy(update=change))
    assert found.samples == 0
    assert found.unproven > 0
    assert str(spec.seed) in found.problems[0].detail


def test_the_size_of_the_data_must_not_change_on_the_way(files, spec):
    one = ledger.write_segment(files, [entry(spec, 1)], None, spec, dataset_size=SIZE + 1)
    commit(files, 3, write(files, spec, 2, 3, one))
    found = audit(files, spec)
    assert found.unproven == 8
    assert "65" in found.problems[0].detail


def test_many_problems_are_counted_and_the_newest_listed(files, spec):
    entries = [entry(spec, step, samples=[1] * 8) for step in range(1, 151)]
    commit(files, 150, ledger.write_segment(files, entries, None, spec, dataset_size=SIZE))
    found = audit(files, spec)
    assert len(found.problems) == 100
    assert found.lost > 150
    assert found.problems_left_out == 200
    assert "and 200 more" in render(found)[-2]


def test_certificates_are_counted_by_verdict(files, spec):
    three_segments(files, spec)
    for attempt, verdict in enumerate([Verdict.EQUAL, Verdict.NOTHING, Verdict.EQUAL], 2):
        append_certificate(
            files, Certificate(attempt=attempt, restored_step=3, replayed_steps=[], verdict=verdict)
        )
    found = audit(files, spec)
    assert found.model_dump(mode="json")["certificates"] == {"equal": 2, "unequal": 0, "nothing": 1}
    assert "certificates  2 equal, 0 unequal, 1 nothing" in render(found)


def test_a_run_is_audited_by_its_name(files, spec, settings):
    with pytest.raises(NotFoundError) as caught:
        audit_run("run-1", settings)
    assert caught.value.code == "train.unknown_run"
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    three_segments(files, spec)
    assert audit_run("run-1", settings).samples == 72


def test_what_a_finished_run_did_not_commit_is_unproven(files, spec, settings):
    three_segments(files, spec)
    assert audit(files, spec, finished_at=9).is_proven
    found = audit(files, spec, finished_at=11)
    assert (found.committed_step, found.lost, found.unproven) == (9, 0, 2 * spec.global_batch_size)
    assert found.problems[0].step == 10
    assert render(found)[-1] == "The ledger does not prove that every sample was trained once."


def test_a_finished_run_without_any_checkpoint_is_unproven(files, spec):
    found = audit(files, spec, finished_at=3)
    assert (found.committed_step, found.unproven) == (0, 3 * spec.global_batch_size)
    with pytest.raises(IntegrityError):
        require_proven(found)


@pytest.mark.parametrize(("end", "unproven"), [(10, 8), (9, 0), (None, 0)])
def test_where_a_run_ended_stands_in_its_directory(files, spec, settings, end, unproven):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    three_segments(files, spec)
    if end is not None:
        ending.write(files, ending.at_step(end, spec))
    assert audit_run("run-1", settings).unproven == unproven
