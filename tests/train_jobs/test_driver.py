import io

import pytest

from cluster.errors import ConfigError, ConflictError, NotFoundError
from cluster.manifest import VersionKind
from cluster.refs import VersionRef
from train_jobs import checkpoint, driver, report
from train_jobs.model import attach_lora, load_base


def test_a_new_run_is_planned_from_the_start_with_its_base_named_exactly(store, spec, settings):
    todo = driver.plan(spec.model_copy(update={"model": "tiny"}), settings)
    assert (todo.spec.model, todo.resume_step, todo.missing, todo.is_done) == ("tiny:v1", 0, [], False)


def test_an_unknown_model_gets_the_nearest_name(store, spec, settings):
    with pytest.raises(NotFoundError, match="tiny"):
        driver.plan(spec.model_copy(update={"model": "tinny:v1"}), settings)


def test_missing_data_are_named(store, spec, settings):
    gone = spec.data.model_copy(update={"train": "/no/such/train.parquet"})
    with pytest.raises(NotFoundError, match=r"/no/such/train\.parquet"):
        driver.plan(spec.model_copy(update={"data": gone}), settings)


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
            driver.plan(spec.model_copy(update={"model": "tiny:a", "peft": peft}), settings)


def test_a_run_that_exists_with_another_spec_conflicts(store, spec, settings, files):
    files.storage.write_atomic(files.spec, spec.to_yaml().encode())
    assert driver.plan(spec, settings).spec == spec
    with pytest.raises(ConflictError, match="max_steps"):
        driver.plan(spec.model_copy(update={"max_steps": 99}), settings)


def test_a_finished_run_says_so_and_does_nothing(store, spec, settings, files):
    checkpoint.commit(files, {"a": b"1"}, step=8, attempt=1, world_size=2, metrics={})
    for _ in range(2):
        out = io.StringIO()
        result = driver.train(spec, settings, stream=out)
        assert (result.trained, result.step) == (False, 8)
        assert "finished" in out.getvalue()
        # Also when the driver was killed before it could write that down.
        assert report.describe("run-1", settings)["status"] == "finished"


def test_epochs_are_taken_from_the_run_that_is_resumed(store, spec, settings, files):
    given = spec.model_copy(update={"max_steps": 0, "num_train_epochs": 1.0})
    checkpoint.commit(files, {"a": b"1"}, step=8, attempt=1, world_size=2, metrics={})
    # As long as nobody knows how many steps they are, no checkpoint is the last.
    assert not driver.plan(given, settings).is_done
    files.storage.write_atomic(files.spec, given.with_steps(64).to_yaml().encode())
    todo = driver.plan(given, settings)
    assert (todo.spec.max_steps, todo.is_done) == (8, True)
    out = io.StringIO()
    result = driver.train(given, settings, stream=out)
    assert (result.trained, result.step) == (False, 8)
    assert "all 8 steps" in out.getvalue()
    with pytest.raises(ConflictError, match="num_train_epochs"):
        driver.plan(given.model_copy(update={"num_train_epochs": 2.0}), settings)
