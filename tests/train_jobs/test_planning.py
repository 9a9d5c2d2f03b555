"""What may change while a run has done nothing yet, and what may not once it has."""

import pytest

from cluster.errors import ConfigError, ConflictError, NotFoundError
from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from train_jobs import checkpoint, ending, inputs, planning
from train_jobs.ending import Ending, Why
from train_jobs.inputs import Inputs
from train_jobs.model import attach_lora, load_base
from train_jobs.spec import FailuresSpec

STEP = b'{"step": 1}'


@pytest.fixture
def begun(store, spec, files):
    """A run that has done a step and committed none."""
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    files.storage.append_line(files.metrics, STEP)


@pytest.fixture
def second_base(store, tiny_dir):
    """tiny:v2, which `tiny` means by now."""
    ref = VersionRef(model="tiny", version="v2")
    store.publish(tiny_dir, ref, kind=VersionKind.BASE, source_label="tests")
    return ref


def test_a_new_run_is_planned_from_the_start_with_its_base_named_exactly(store, spec, settings):
    todo = planning.plan(spec.model_copy(update={"model": "tiny"}), settings)
    assert (todo.spec.model, todo.resume_step, todo.missing, todo.is_done) == ("tiny:v1", 0, [], False)


def test_an_unknown_model_gets_the_nearest_name(store, spec, settings):
    with pytest.raises(NotFoundError, match="tiny"):
        planning.plan(spec.model_copy(update={"model": "tinny:v1"}), settings)


def test_missing_data_are_named(store, spec, settings):
    gone = spec.data.model_copy(update={"train": "/no/such/train.parquet"})
    with pytest.raises(NotFoundError, match=r"/no/such/train\.parquet"):
        planning.plan(spec.model_copy(update={"data": gone}), settings)


def test_rows_beyond_the_context_of_the_base_are_refused_before_anything_starts(store, spec, settings):
    with pytest.raises(ConfigError, match="at most 1024 tokens") as caught:
        planning.plan(spec.model_copy(update={"max_length": 1025}), settings)
    assert caught.value.code == "train.context"


def test_an_adapter_cannot_be_the_base(store, spec, settings, tiny_dir, tmp_path):
    source = tmp_path / "adapter"
    source.mkdir()
    model = attach_lora(load_base(tiny_dir), spec.peft, 0)
    model.save_pretrained(source)
    store.publish(
        source,
        VersionRef(model="tiny", version="a"),
        kind=VersionKind.ADAPTER,
        source_label="t",
        parent="tiny:v1",
    )
    for peft in (spec.peft, None):
        with pytest.raises(ConfigError, match="adapter, which nothing can be trained on"):
            planning.plan(spec.model_copy(update={"model": "tiny:a", "peft": peft}), settings)


def changed(spec, **changes):
    return spec.model_copy(update=changes)


def test_until_a_step_is_done_the_spec_may_change(store, spec, settings, files):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    todo = planning.plan(changed(spec, num_workers=1, max_steps=99), settings)
    assert (todo.spec.num_workers, todo.spec.max_steps, todo.has_begun) == (1, 99, False)


def test_epochs_of_a_run_that_has_done_nothing_are_counted_anew(store, spec, settings, files):
    given = changed(spec, max_steps=0, num_train_epochs=1.0)
    files.storage.write_atomic(files.spec, given.with_steps(64).to_yaml().encode())
    assert planning.plan(given, settings).spec.max_steps == 0


@pytest.mark.parametrize("journal", ["metrics", "witness"])
def test_one_step_on_record_holds_the_spec(store, spec, settings, files, journal):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    files.storage.append_line(getattr(files, journal), STEP)
    assert planning.plan(spec, settings).has_begun
    with pytest.raises(ConflictError, match="`max_steps` is 99, the run has 8"):
        planning.plan(changed(spec, max_steps=99), settings)


def test_a_checkpoint_holds_the_spec(store, spec, settings, files):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    checkpoint.commit(files, {"a": b"1"}, step=3, attempt=1, world_size=2, metrics={})
    with pytest.raises(ConflictError, match="seed"):
        planning.plan(changed(spec, seed=1), settings)


def test_what_decides_nothing_may_change_in_a_run_that_has_begun(begun, spec, settings):
    given = changed(spec, standby=1, save_steps=1, failures=FailuresSpec(on_mismatch="warn"))
    assert planning.plan(given, settings).spec == given


def test_the_same_data_may_lie_elsewhere(begun, spec, settings, data_file, tmp_path):
    moved = data_file.rename(tmp_path / "moved.jsonl")
    given = changed(spec, data=spec.data.model_copy(update={"train": str(moved)}))
    assert planning.plan(given, settings).spec.data.train == str(moved)


@pytest.mark.parametrize("name", ["tiny", "tiny@stable"])
def test_an_alias_means_what_it_meant_when_the_run_began(begun, spec, settings, second_base, store, name):
    store.set_alias("tiny", "stable", "v2", expected="v1", reason="tests")
    assert store.resolve(name) == second_base
    assert planning.plan(changed(spec, model=name), settings).spec.model == "tiny:v1"
    with pytest.raises(ConflictError, match="`model` is 'tiny:v2', the run has 'tiny:v1'"):
        planning.plan(changed(spec, model="tiny:v2"), settings)


def test_an_alias_is_resolved_anew_while_nothing_was_done(spec, settings, second_base, store, files):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    store.set_alias("tiny", "stable", "v2", expected="v1", reason="tests")
    assert planning.plan(changed(spec, model="tiny"), settings).spec.model == "tiny:v2"


def test_another_base_under_the_same_label_is_refused_once_the_run_has_begun(spec, settings, store, files):
    base = inputs.base_identity(store.manifest(store.resolve("tiny:v1")))
    inputs.settle(files, Inputs(train="t", validation=None, base="b" * 64), has_begun=False)
    planning.plan(spec, settings)
    files.storage.append_line(files.metrics, STEP)
    with pytest.raises(ConflictError) as caught:
        planning.plan(spec, settings)
    assert caught.value.code == "train.base_changed"
    assert base[:12] in caught.value.message
    assert "bbbbbbbbbbbb" in caught.value.message


def test_a_run_that_stopped_early_is_done_where_it_stopped(begun, spec, settings, files):
    assert planning.plan(spec, settings).end is None
    ending.write(files, Ending(step=5, why=Why.EARLY_STOPPING))
    # Its checkpoint was lost.
    assert not planning.plan(spec, settings).is_done
    checkpoint.commit(files, {"a": b"1"}, step=5, attempt=1, world_size=2, metrics={})
    todo = planning.plan(spec, settings)
    assert (todo.is_done, todo.end.step) == (True, 5)
